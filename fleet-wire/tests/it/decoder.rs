//! No bytes make the decoder panic, and what was encoded comes back.

use fleet_wire::{
    Message, fuzz,
    gateway::{ControlStreamRequest, DiscoveredDeviceReport, ReportDiscoveredDevicesRequest},
};
use proptest::{collection::vec, prelude::*};

use crate::harness::{ack, register};

fn seeds() -> Vec<Vec<u8>> {
    let device = DiscoveredDeviceReport {
        device_identifier: "mac:AA".to_owned(),
        ip_address: "10.0.0.7".to_owned(),
        ..DiscoveredDeviceReport::default()
    };
    let report = ReportDiscoveredDevicesRequest {
        hosts: Vec::new(),
        devices: vec![device; 3],
        command_id: "c".to_owned(),
    };
    let json = serde_json::to_vec(&report).expect("has a JSON form");
    vec![
        register("n").encode_to_vec(),
        ack("c").encode_to_vec(),
        report.encode_to_vec(),
        json,
    ]
}

proptest! {
    #![proptest_config(fleet_core::regressions!("decoder"))]

    #[test]
    fn arbitrary_bytes_never_panic_the_decoder(data in vec(any::<u8>(), 0..512)) {
        fuzz::decode_any(&data);
    }

    #[test]
    fn damaged_messages_never_panic_the_decoder(
        seed in 0_usize..4,
        edits in vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut in any::<prop::sample::Index>(),
    ) {
        let mut data = seeds().swap_remove(seed);
        for (at, value) in edits {
            let at = at.index(data.len());
            data[at] = value;
        }
        fuzz::decode_any(&data);
        data.truncate(cut.index(data.len() + 1));
        fuzz::decode_any(&data);
    }

    #[test]
    fn a_report_survives_binary_and_json(identifier in "\\PC{0,40}", model in "\\PC{0,40}", count in 0_usize..5) {
        let device = DiscoveredDeviceReport { device_identifier: identifier, model, ..DiscoveredDeviceReport::default() };
        let report = ReportDiscoveredDevicesRequest { hosts: Vec::new(), devices: vec![device; count], command_id: "c".to_owned() };
        prop_assert_eq!(&ReportDiscoveredDevicesRequest::decode(report.encode_to_vec().as_slice()).expect("decodes"), &report);
        let json = serde_json::to_string(&report).expect("has a JSON form");
        prop_assert_eq!(&serde_json::from_str::<ReportDiscoveredDevicesRequest>(&json).expect("decodes"), &report);
    }
}

#[test]
fn an_arm_from_the_future_is_a_message_without_an_arm() {
    // Field 999 of a oneof that ends at 101, length-delimited.
    let message =
        ControlStreamRequest::decode(&[0xba, 0x3e, 0x00][..]).expect("unknown fields are skipped");
    assert_eq!(message.kind, None);
}
