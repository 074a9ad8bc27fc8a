//! The events of a scan: live ([`Watch`]), or the whole log after the end ([`History`]).

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

    /// Returns the next event of the log. Skips progress and heartbeats, which are not in the log.
    pub(crate) async fn next(&mut self) -> Result<Option<WatchScanResponse>, RpcError> {
        loop {
            let message = within("the next event", self.stream.message()).await?;
            match message {
                Some(message) if message.sequence == 0 => {}
                event => return Ok(event),
            }
        }
    }

    /// Returns the next event and asserts that it is a device.
    pub(crate) async fn next_device(&mut self) -> WatchScanResponse {
        let event = self.next().await.expect("the watch holds");
        let event = event.expect("the scan goes on");
        assert!(matches!(event.event, Some(Event::Device(_))), "{event:?}");
        event
    }

    /// Returns the remaining events up to the end of the stream.
    pub(crate) async fn rest(mut self) -> Vec<WatchScanResponse> {
        let mut events = Vec::new();
        while let Some(event) = self.next().await.expect("the watch holds") {
            events.push(event);
        }
        events
    }

    /// Returns the log, for a watch that started at the first event.
    pub(crate) async fn into_history(self) -> History {
        History::complete(self.rest().await)
    }
}

/// The log of a scan that has ended: its sequence is dense from 1, and only its last event is an end.
#[derive(Debug, PartialEq)]
pub(crate) struct History {
    events: Vec<WatchScanResponse>,
}

impl History {
    /// Asserts that the log is complete.
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

    /// Returns all events.
    pub(crate) fn events(&self) -> &[WatchScanResponse] {
        &self.events
    }

    /// Returns the device events.
    pub(crate) fn devices(&self) -> impl Iterator<Item = &DeviceFound> {
        devices(&self.events)
    }

    /// Returns the end event.
    pub(crate) fn ended(&self) -> &ScanEnded {
        match self.events.last().and_then(|last| last.event.as_ref()) {
            Some(Event::Ended(ended)) => ended,
            Some(Event::Device(_) | Event::Host(_) | Event::Progress(_) | Event::Warning(_))
            | None => {
                unreachable!("checked when it was made")
            }
        }
    }

    /// Asserts the final state and returns the ledger.
    pub(crate) fn ended_as(&self, state: ScanState) -> &Ledger {
        let ended = self.ended();
        assert_eq!(ended.state(), state, "{}: {}", ended.code, ended.reason);
        ended.ledger.as_ref().expect("an end has its ledger")
    }
}

/// Returns the device events among `events`.
pub(crate) fn devices(events: &[WatchScanResponse]) -> impl Iterator<Item = &DeviceFound> {
    events.iter().filter_map(|event| match &event.event {
        Some(Event::Device(found)) => Some(found),
        Some(Event::Host(_) | Event::Progress(_) | Event::Warning(_) | Event::Ended(_)) | None => {
            None
        }
    })
}

/// Returns the device events by address. Asserts that no address occurs twice.
pub(crate) fn found_addresses(events: &[WatchScanResponse]) -> BTreeMap<IpAddr, &DeviceFound> {
    let mut found = BTreeMap::new();
    for device in devices(events) {
        let ip = device.ip.parse().expect("an address");
        let twice = found.insert(ip, device);
        assert_eq!(twice, None, "{ip} was announced twice");
    }
    found
}
