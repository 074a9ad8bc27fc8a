//! Identity of the caller, and calls that are refused to everybody. `matrix.txt` says who may call what.

use fleet_core::Role;
use fleet_wire::{
    Code, client::Incoming, fleet::WhoAmIRequest, minercommand, pairing::PairRequest,
};

use crate::harness::{World, list, refused, stream_refused};

#[tokio::test(flavor = "multi_thread")]
async fn who_am_i_names_the_operator_and_the_role() {
    let world = World::new().await;
    let viewer = world.operator(Role::Viewer).await;
    let me = viewer
        .account()
        .who_am_i(&WhoAmIRequest {}, viewer.options())
        .await
        .expect("answers");
    assert_eq!(
        (me.email, me.organization, me.role),
        (viewer.email, "Acme".into(), "viewer".into())
    );
    assert_eq!(me.permissions, ["fleetnode:read"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn scanning_the_servers_own_network_is_refused_with_a_remedy() {
    let world = World::new().await;
    let operator = world.operator(Role::Operator).await;
    let asked = list(&["10.0.0.1"], &[]);
    let opened = operator
        .pairing()
        .discover(&asked, operator.options())
        .await;
    let opened = opened.map(Incoming::into_stream);
    let error = stream_refused(opened, Code::FailedPrecondition).await;
    assert!(error.message.contains("enroll a node"), "{error}");
    let all = minercommand::device_selector::SelectionType::AllDevices(Default::default());
    let request = PairRequest {
        device_selector: Some(minercommand::DeviceSelector {
            selection_type: Some(all),
        }),
        ..PairRequest::default()
    };
    let paired = operator.pairing().pair(&request, operator.options()).await;
    refused(paired, Code::FailedPrecondition);
}
