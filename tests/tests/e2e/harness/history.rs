//! A scan's events: as they come ([`Watch`]), and the whole log of a scan that has ended ([`History`]).

use std::{collections::BTreeMap, net::IpAddr};

use fleet_wire::{
    RpcError,
    client::Incoming,
    fleet::{DeviceFound, Ledger, ScanEnded, WatchScanResponse, watch_scan_response::Event},
};

use super::{ScanState, within};

/// A watch of a scan.
#[derive(Debug)]
pub(crate) struct Watch {
    stream: Incoming<WatchScanResponse>,
}

impl Watch {
    pub(crate) fn new(stream: Incoming<WatchScanResponse>) -> Self {
        Self { stream }
    }

    /// The next event of the log; progress and signs of life are passed over.
    pub(crate) async fn next(&mut self) -> Result<Option<WatchScanResponse>, RpcError> {
        loop {
            let message = within("the next event", self.stream.message()).await?;
            match message {
                Some(message) if message.sequence == 0 => {}
                event => return Ok(event),
            }
        }
    }

    /// The next event, which must be a device.
    pub(crate) async fn next_device(&mut self) -> WatchScanResponse {
        let event = self.next().await.expect("the watch holds");
        let event = event.expect("the scan goes on");
        assert!(matches!(event.event, Some(Event::Device(_))), "{event:?}");
        event
    }

    /// Everything that is left, up to the end of the stream.
    pub(crate) async fn rest(mut self) -> Vec<WatchScanResponse> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await.expect("the watch holds") {
            events.push(event);
        }
        events
    }

    /// The log, when this watch began at its beginning.
    pub(crate) async fn into_history(self) -> History {
        History::complete(self.rest().await)
    }
}

/// The log of a scan that has ended: dense from 1, its end is the last event and the only one of its kind.
#[derive(Debug, PartialEq)]
pub(crate) struct History {
    events: Vec<WatchScanResponse>,
}

impl History {
    /// Insists on a complete log.
    pub(crate) fn complete(events: Vec<WatchScanResponse>) -> Self {
        let sequences: Vec<i64> = events.iter().map(|event| event.sequence).collect();
        let dense: Vec<i64> = (1..).take(events.len()).collect();
        assert_eq!(sequences, dense, "sequences are dense");
        let ends: Vec<usize> = events
            .iter()
            .enumerate()
            .filter(|(_, event)| matches!(event.event, Some(Event::Ended(_))))
            .map(|(index, _)| index)
            .collect();
        assert_eq!(ends, [events.len() - 1], "one end, and it comes last");
        Self { events }
    }

    /// The events.
    pub(crate) fn events(&self) -> &[WatchScanResponse] {
        &self.events
    }

    /// The devices.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &DeviceFound> {
        devices(&self.events)
    }

    /// The end.
    pub(crate) fn ended(&self) -> &ScanEnded {
        match self.events.last().and_then(|last| last.event.as_ref()) {
            Some(Event::Ended(ended)) => ended,
            Some(Event::Device(_) | Event::Progress(_) | Event::Warning(_)) | None => {
                unreachable!("checked when it was made")
            }
        }
    }

    /// The ledger of a scan that ended in this state.
    pub(crate) fn ended_as(&self, state: ScanState) -> &Ledger {
        let ended = self.ended();
        assert_eq!(ended.state(), state, "{}: {}", ended.code, ended.reason);
        ended.ledger.as_ref().expect("an end has its ledger")
    }
}

/// The devices among events.
pub(crate) fn devices(events: &[WatchScanResponse]) -> impl Iterator<Item = &DeviceFound> {
    events.iter().filter_map(|event| match &event.event {
        Some(Event::Device(found)) => Some(found),
        Some(Event::Progress(_) | Event::Warning(_) | Event::Ended(_)) | None => None,
    })
}

/// The devices among events by address, of which each must be there once.
pub(crate) fn found_addresses(events: &[WatchScanResponse]) -> BTreeMap<IpAddr, &DeviceFound> {
    let mut found = BTreeMap::new();
    for device in devices(events) {
        let ip = device.ip.parse().expect("an address");
        let twice = found.insert(ip, device);
        assert_eq!(twice, None, "{ip} was announced twice");
    }
    found
}
