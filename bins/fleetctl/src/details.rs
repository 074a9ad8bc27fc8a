//! `fleetctl devices history`, `label` and `note`.

use std::io::{self, Write};

use fleet_wire::fleet::{
    DeviceEvent, GetDeviceDetailRequest, LabelDevicesRequest, SetDeviceNoteRequest,
};

use crate::{
    cli::Format,
    failure::Failure,
    output::{self, Rows},
    pair,
    server::Server,
    times,
};

/// Shows the timeline of a device. A table has its ports and its note above.
pub(crate) async fn history(server: &Server, format: Format, device: i64) -> Result<(), Failure> {
    let request = GetDeviceDetailRequest { device_id: device };
    let call = server.call()?;
    let found = server.details.get_device_detail(&request, call).await?;
    if !format.is_table() {
        output::document(&mut io::stdout().lock(), &found)?;
        return Ok(());
    }
    let ports: Vec<String> = found.ports.iter().map(ToString::to_string).collect();
    writeln!(io::stdout(), "Open ports: {}", ports.join(", "))?;
    if let Some(note) = &found.note {
        let (text, author) = (output::plain(&note.text), output::plain(&note.author));
        writeln!(io::stdout(), "Note of {author}: {text}")?;
    }
    writeln!(io::stdout())?;
    output::rows(format, &found.events)?;
    Ok(())
}

pub(crate) async fn label(
    server: &Server,
    device_ids: Vec<i64>,
    add: Vec<String>,
    remove: Vec<String>,
) -> Result<(), Failure> {
    let request = LabelDevicesRequest {
        device_ids,
        add,
        remove,
    };
    server
        .details
        .label_devices(&request, server.call()?)
        .await?;
    Ok(())
}

pub(crate) async fn note(server: &Server, device: i64, text: String) -> Result<(), Failure> {
    let request = SetDeviceNoteRequest {
        device_id: device,
        text,
    };
    server
        .details
        .set_device_note(&request, server.call()?)
        .await?;
    Ok(())
}

impl Rows for DeviceEvent {
    const HEAD: &'static [&'static str] = &[
        "When", "What", "Before", "After", "Node", "Reason", "Change",
    ];
    const OPTIONAL: &'static [&'static str] = &["Reason", "Node"];
    const WHOLE: &'static [&'static str] = &["When", "What"];

    fn cells(&self) -> Vec<String> {
        event_cells(self, pair::word)
    }

    fn record(&self) -> Vec<String> {
        event_cells(self, str::to_owned)
    }
}

/// The cells of an event, with pairing states as `state` writes them.
fn event_cells(event: &DeviceEvent, state: impl Fn(&str) -> String) -> Vec<String> {
    let number = |id: i64| {
        if id == 0 {
            String::new()
        } else {
            id.to_string()
        }
    };
    let value = |text: &str| match event.kind.as_str() {
        "pairing" => state(text),
        _ => text.to_owned(),
    };
    vec![
        times::timestamp(event.at.as_ref()),
        event.kind.clone(),
        value(&event.former),
        value(&event.became),
        number(event.fleet_node_id),
        event.reason.clone(),
        number(event.identity_change_id),
    ]
}
