//! The lookup of one host name by multicast DNS (RFC 6762): which queries are due, and which answers count. Pure; time is
//! an argument, datagrams are bytes.
//!
//! A host answers on its own link only, and several hosts may have one name. Therefore the first answer does not end the
//! lookup at once.

use std::{
    collections::BTreeSet,
    net::IpAddr,
    time::{Duration, Instant},
};

use fleet_core::limits::NAME_ADDRESSES;
use fleet_discovery::HostName;
use hickory_proto::{
    op::Query,
    rr::{Name, RData, RecordType},
};

use super::browse::{query_message, records};

/// The time between two queries, at least a second (RFC 6762, 5.2).
const QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// Queries for a name that nobody answers.
const QUERIES: u8 = 3;

/// How long other hosts may take to answer after the first one. Answers of several hosts are spread over 120 ms
/// (RFC 6762, 6).
const MORE_ANSWERS: Duration = Duration::from_millis(250);

/// One more than a name may have: the name is then rejected with all its answers.
const MOST: usize = NAME_ADDRESSES + 1;

/// A running lookup.
#[derive(Debug)]
pub(super) struct Lookup {
    name: Name,
    addresses: BTreeSet<IpAddr>,
    queries: u8,
    next_query: Instant,
    /// When it is over.
    end: Instant,
}

impl Lookup {
    /// Starts at `now`. Returns none if the name is not a valid DNS name. Every [`HostName`] is valid.
    pub(super) fn new(name: &HostName, now: Instant) -> Option<Self> {
        Some(Self {
            name: Name::from_ascii(format!("{name}.")).ok()?,
            addresses: BTreeSet::new(),
            queries: 0,
            next_query: now,
            end: now + QUERY_INTERVAL * u32::from(QUERIES),
        })
    }

    /// Returns the next packet to send, if one is due.
    pub(super) fn query(&mut self, now: Instant) -> Option<Vec<u8>> {
        let is_due = now >= self.next_query && self.addresses.is_empty();
        if !is_due || self.queries >= QUERIES {
            return None;
        }
        self.queries += 1;
        self.next_query = now + QUERY_INTERVAL;
        let kinds = [RecordType::A, RecordType::AAAA];
        let queries = kinds.map(|kind| Query::query(self.name.clone(), kind));
        query_message(queries).to_vec().ok()
    }

    /// Returns when to continue.
    pub(super) fn deadline(&self) -> Instant {
        if self.addresses.is_empty() && self.queries < QUERIES {
            self.next_query.min(self.end)
        } else {
            self.end
        }
    }

    /// Returns whether no more answers are expected.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        now >= self.end
    }

    /// Processes a datagram.
    pub(super) fn receive(&mut self, datagram: &[u8], now: Instant) {
        for record in records(datagram) {
            let address = if let RData::A(ip) = &record.data {
                IpAddr::V4(ip.0)
            } else if let RData::AAAA(ip) = &record.data {
                IpAddr::V6(ip.0)
            } else {
                continue;
            };
            let counts = record.name == self.name && record.ttl > 0 && !is_link_local(address);
            if !counts || self.addresses.len() >= MOST {
                continue;
            }
            if self.addresses.is_empty() {
                self.end = self.end.min(now + MORE_ANSWERS);
            }
            self.addresses.insert(address);
        }
    }

    /// Returns the addresses, ascending, at most nine.
    pub(super) fn into_addresses(self) -> Vec<IpAddr> {
        self.addresses.into_iter().collect()
    }
}

/// Hosts announce their link-local addresses beside the usable ones. Those are never scanned, and do not speak against the
/// others.
fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    }
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, MessageType, OpCode},
        rr::Record,
    };

    use super::*;

    fn answer(name: &str, ttl: u32, addresses: &[&str]) -> Vec<u8> {
        let mut message = Message::new(0, MessageType::Response, OpCode::Query);
        for address in addresses {
            let data = match address.parse().expect(address) {
                IpAddr::V4(ip) => RData::A(ip.into()),
                IpAddr::V6(ip) => RData::AAAA(ip.into()),
            };
            let name = Name::from_ascii(name).expect(name);
            message.add_answer(Record::from_rdata(name, ttl, data));
        }
        message.to_vec().expect("a message")
    }

    fn lookup(now: Instant) -> Lookup {
        let name = "bitaxe.local".parse().expect("a name");
        Lookup::new(&name, now).expect("a name")
    }

    fn texts(lookup: Lookup) -> Vec<String> {
        let addresses = lookup.into_addresses();
        addresses.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn addresses_of_every_host_with_the_name_count() {
        let now = Instant::now();
        let mut lookup = lookup(now);
        assert!(lookup.query(now).is_some() && lookup.query(now).is_none());
        lookup.receive(&answer("other.local.", 120, &["10.0.0.1"]), now);
        lookup.receive(&answer("bitaxe.local.", 0, &["10.0.0.2"]), now);
        assert!(!lookup.is_over(now + MORE_ANSWERS), "nobody has answered");
        let first = answer(
            "Bitaxe.local.",
            120,
            &["10.0.0.3", "fe80::3", "169.254.0.3"],
        );
        lookup.receive(&first, now);
        lookup.receive(&answer("bitaxe.local.", 120, &["10.0.0.4", "fd00::4"]), now);
        assert!(!lookup.is_over(now) && lookup.is_over(now + MORE_ANSWERS));
        assert_eq!(texts(lookup), ["10.0.0.3", "10.0.0.4", "fd00::4"]);
    }

    #[test]
    fn a_name_without_answer_is_asked_for_three_times() {
        let start = Instant::now();
        let mut lookup = lookup(start);
        let (mut now, mut queries) = (start, 0);
        while !lookup.is_over(now) {
            queries += u8::from(lookup.query(now).is_some());
            assert!(lookup.deadline() > now, "it would spin");
            now = lookup.deadline();
        }
        assert_eq!((queries, now - start), (3, Duration::from_secs(3)));
        assert!(texts(lookup).is_empty());
    }

    #[test]
    fn the_number_of_addresses_is_bounded() {
        let now = Instant::now();
        let mut lookup = lookup(now);
        let many: Vec<String> = (0..100).map(|n| format!("10.0.0.{n}")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        lookup.receive(&answer("bitaxe.local.", 120, &many), now);
        assert_eq!(texts(lookup).len(), MOST);
    }
}
