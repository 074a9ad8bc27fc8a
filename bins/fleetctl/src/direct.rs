//! `fleetctl direct`: devices that the server itself reaches.

use fleet_wire::fleet::ScanOwnNetworkRequest;

use crate::{
    cli::{Direct, Format},
    failure::Failure,
    scans,
    server::Server,
    watch,
};

pub(crate) async fn run(server: &Server, format: Format, command: Direct) -> Result<u8, Failure> {
    match command {
        Direct::Scan(targets) => {
            let request = ScanOwnNetworkRequest {
                request: Some(scans::request(targets)),
            };
            watch::own_network(server, format, &request).await
        }
    }
}
