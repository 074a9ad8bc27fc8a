//! What is asked when, and what of the answers counts: browsing for one type of services (RFC 6762, RFC 6763). Pure; time
//! is an argument, datagrams are bytes.
//!
//! [`Browse::ask`] gives the questions that are due, [`Browse::hear`] takes in what comes, [`Browse::deadline`] says when
//! to look again. Records are read by hickory-proto. Whoever answers is a stranger: only what was asked for is kept, as
//! much of it as there are targets, and nobody makes this side send more than a packet every [`PAUSE`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use fleet_core::limits::NAME_ADDRESSES;
use fleet_discovery::ServiceType;
use hickory_proto::{
    op::{Header, Message, MessageType, OpCode, Query},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata::PTR},
    serialize::binary::{BinDecodable, BinDecoder},
};

/// Between the first two questions for the services; it doubles each time (RFC 6762, 5.2).
const ASK_AGAIN: Duration = Duration::from_secs(1);

/// The longest time between two of them.
const ASK_SELDOM: Duration = Duration::from_secs(3_600);

/// How long records that belong together may take to come together, and between two packets that ask for missing ones.
const PAUSE: Duration = Duration::from_millis(100);

/// Questions for a record that does not come by itself.
const TRIES: u8 = 3;

/// Names of missing records in one packet.
const QUESTIONS: usize = 32;

/// Bytes of a packet of ours, headers aside: it fits an Ethernet frame.
const PACKET: usize = 1_400;

/// Bytes of a record without its names.
const RECORD: usize = 10;

/// Ports of one host.
const PORTS: usize = 64;

/// Everything that is known of the services of one type on one link.
#[derive(Debug)]
pub(super) struct Browse {
    /// With its domain.
    service: Name,
    /// The most services, and the most hosts.
    most: usize,
    services: BTreeMap<Name, Service>,
    hosts: BTreeMap<Name, Host>,
    heard: VecDeque<SocketAddrV4>,
    ask: Instant,
    ask_again: Duration,
    /// Records that may still come by themselves until then, and are asked for after.
    missing: BTreeSet<(Instant, Missing)>,
    /// When a packet for missing records may leave.
    leave: Instant,
    is_full: bool,
}

#[derive(Debug)]
struct Service {
    /// When it was last named, and for how long that holds.
    named: Instant,
    holds: Duration,
    is_located: bool,
}

#[derive(Debug, Default)]
struct Host {
    addresses: BTreeSet<Ipv4Addr>,
    ports: BTreeSet<u16>,
    ipv6: Option<Ipv6Addr>,
}

/// A record that nobody sent yet, and how often it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Missing {
    name: Name,
    kind: Kind,
    tries: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// SRV: at which port of which host a service is.
    Location,
    /// A: an address of a host.
    Address,
}

/// What came of it in the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// More was named than there was room for.
    pub(super) is_full: bool,
    /// Services that never said where they are.
    pub(super) nowhere: Vec<String>,
    /// Hosts that have no IPv4 address.
    pub(super) ipv6_only: Vec<Ipv6Addr>,
}

impl Browse {
    /// Asks from `now` on, and keeps at most `most` services and hosts. None where the type is no DNS name, which every
    /// [`ServiceType`] is.
    pub(super) fn new(service: &ServiceType, most: usize, now: Instant) -> Option<Self> {
        Some(Self {
            service: Name::from_ascii(format!("{service}.local.")).ok()?,
            most,
            services: BTreeMap::new(),
            hosts: BTreeMap::new(),
            heard: VecDeque::new(),
            ask: now,
            ask_again: ASK_AGAIN,
            missing: BTreeSet::new(),
            leave: now,
            is_full: false,
        })
    }

    /// The packet to send now, if one is due. To be called until there is none.
    pub(super) fn ask(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now >= self.ask {
            self.ask = now + self.ask_again;
            self.ask_again = (self.ask_again * 2).min(ASK_SELDOM);
            return self.ask_for_services(now);
        }
        if now >= self.leave {
            return self.ask_for_missing(now);
        }
        None
    }

    /// When [`Browse::ask`] has something next.
    pub(super) fn deadline(&self) -> Instant {
        let missing = self.missing.first().map(|(due, _)| (*due).max(self.leave));
        missing.map_or(self.ask, |missing| missing.min(self.ask))
    }

    /// Takes in a datagram.
    pub(super) fn hear(&mut self, datagram: &[u8], now: Instant) {
        let records = records(datagram);
        // In the order in which they refer to each other, whatever theirs is.
        for record in &records {
            if let RData::PTR(PTR(instance)) = &record.data
                && record.name == self.service
            {
                self.named(instance, record.ttl, now);
            }
        }
        for record in &records {
            if let RData::SRV(srv) = &record.data {
                self.located(&record.name, &srv.target, srv.port, now);
            }
        }
        for record in &records {
            self.addressed(record);
        }
    }

    /// The next address and port at which a service is, each once a host.
    pub(super) fn heard(&mut self) -> Option<SocketAddrV4> {
        self.heard.pop_front()
    }

    /// What never became an address.
    pub(super) fn rest(self) -> Rest {
        let nowhere = self.services.into_iter();
        let nowhere = nowhere.filter(|(_, service)| !service.is_located);
        let hosts = self.hosts.into_values();
        let ipv6_only = hosts.filter(|host| host.addresses.is_empty());
        Rest {
            is_full: self.is_full,
            nowhere: nowhere.map(|(name, _)| name.to_string()).collect(),
            ipv6_only: ipv6_only.filter_map(|host| host.ipv6).collect(),
        }
    }

    /// With the services that are known, so that only others answer (RFC 6762, 7.1).
    fn ask_for_services(&self, now: Instant) -> Option<Vec<u8>> {
        let mut message = question([Query::query(self.service.clone(), RecordType::PTR)]);
        let mut room = PACKET.saturating_sub(2 * self.service.len());
        for (instance, service) in &self.services {
            let holds = (service.named + service.holds).saturating_duration_since(now);
            let length = instance.len() + self.service.len() + RECORD;
            if holds < service.holds / 2 || room < length {
                continue;
            }
            room -= length;
            // From a number of 32 bits.
            let ttl = u32::try_from(holds.as_secs()).unwrap_or(u32::MAX);
            let known = RData::PTR(PTR(instance.clone()));
            message.add_answer(Record::from_rdata(self.service.clone(), ttl, known));
        }
        message.to_vec().ok()
    }

    fn ask_for_missing(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut asked: Vec<Query> = Vec::new();
        let mut room = PACKET;
        while let Some((due, missing)) = self.missing.first() {
            let length = missing.name.len() + RECORD;
            if *due > now || asked.len() == QUESTIONS || room < length {
                break;
            }
            let Some((_, missing)) = self.missing.pop_first() else {
                break;
            };
            if !self.is_missing(&missing) {
                continue;
            }
            room -= length;
            let kind = match missing.kind {
                Kind::Location => RecordType::SRV,
                Kind::Address => RecordType::A,
            };
            asked.push(Query::query(missing.name.clone(), kind));
            let tries = missing.tries + 1;
            if tries < TRIES {
                let again = now + ASK_AGAIN * u32::from(tries);
                self.missing.insert((again, Missing { tries, ..missing }));
            }
        }
        if asked.is_empty() {
            return None;
        }
        self.leave = now + PAUSE;
        question(asked).to_vec().ok()
    }

    fn is_missing(&self, missing: &Missing) -> bool {
        match missing.kind {
            Kind::Location => {
                let service = self.services.get(&missing.name);
                service.is_some_and(|service| !service.is_located)
            }
            Kind::Address => {
                let host = self.hosts.get(&missing.name);
                host.is_some_and(|host| host.addresses.is_empty())
            }
        }
    }

    fn expect(&mut self, name: &Name, kind: Kind, now: Instant) {
        let missing = Missing {
            name: name.clone(),
            kind,
            tries: 0,
        };
        self.missing.insert((now + PAUSE, missing));
    }

    /// There is a service of this name; a lifetime of 0 says that there is none any more.
    fn named(&mut self, instance: &Name, ttl: u32, now: Instant) {
        let is_one = instance.num_labels() == self.service.num_labels() + 1
            && self.service.zone_of(instance);
        if !is_one || ttl == 0 {
            return;
        }
        let holds = Duration::from_secs(ttl.into());
        if let Some(known) = self.services.get_mut(instance) {
            (known.named, known.holds) = (now, holds);
        } else if self.services.len() < self.most {
            let service = Service {
                named: now,
                holds,
                is_located: false,
            };
            self.services.insert(instance.clone(), service);
            self.expect(instance, Kind::Location, now);
        } else {
            self.is_full = true;
        }
    }

    /// A service is at a port of a host.
    fn located(&mut self, instance: &Name, target: &Name, port: u16, now: Instant) {
        if port == 0 || target.is_root() || !self.services.contains_key(instance) {
            return;
        }
        if !self.hosts.contains_key(target) {
            if self.hosts.len() >= self.most {
                self.is_full = true;
                return;
            }
            self.hosts.insert(target.clone(), Host::default());
            self.expect(target, Kind::Address, now);
        }
        if let Some(service) = self.services.get_mut(instance) {
            service.is_located = true;
        }
        let Some(host) = self.hosts.get_mut(target) else {
            return;
        };
        if host.ports.contains(&port) {
            return;
        }
        if host.ports.len() >= PORTS {
            self.is_full = true;
            return;
        }
        host.ports.insert(port);
        let addresses = host.addresses.iter();
        self.heard
            .extend(addresses.map(|ip| SocketAddrV4::new(*ip, port)));
    }

    /// A host has an address.
    fn addressed(&mut self, record: &Record) {
        let Some(host) = self.hosts.get_mut(&record.name).filter(|_| record.ttl > 0) else {
            return;
        };
        if let RData::AAAA(ip) = &record.data {
            host.ipv6.get_or_insert(ip.0);
        }
        let RData::A(ip) = &record.data else { return };
        if host.addresses.contains(&ip.0) {
            return;
        }
        if host.addresses.len() >= NAME_ADDRESSES {
            self.is_full = true;
            return;
        }
        host.addresses.insert(ip.0);
        let ports = host.ports.iter();
        self.heard
            .extend(ports.map(|port| SocketAddrV4::new(ip.0, *port)));
    }
}

fn question(queries: impl IntoIterator<Item = Query>) -> Message {
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.queries.extend(queries);
    message
}

/// The records of a response, as far as they can be read; none of anything else. One by one, since devices send records
/// that a whole message would be refused for, such as a TXT without text.
fn records(datagram: &[u8]) -> Vec<Record> {
    let mut decoder = BinDecoder::new(datagram);
    let Ok(header) = Header::read(&mut decoder) else {
        return Vec::new();
    };
    let is_response = header.metadata.message_type == MessageType::Response
        && header.metadata.op_code == OpCode::Query;
    let counts = header.counts;
    if !is_response || (0..counts.queries).any(|_| Query::read(&mut decoder).is_err()) {
        return Vec::new();
    }
    let count = [counts.answers, counts.authorities, counts.additionals].map(usize::from);
    let all = std::iter::from_fn(|| Record::read(&mut decoder).ok());
    all.take(count.iter().sum()).filter(is_internet).collect()
}

/// Of class IN, whether or not it says that it is the only one of its kind (RFC 6762, 10.2).
fn is_internet(record: &Record) -> bool {
    const FLUSH: u16 = 1 << 15;
    u16::from(record.dns_class) & !FLUSH == u16::from(DNSClass::IN)
}

/// Datagrams that `0xff 0xff` parts are heard, and everything that is due within a minute is asked.
#[cfg(any(test, feature = "fuzzing"))]
pub(super) fn fuzz(bytes: &[u8]) {
    const MOST: usize = 4;
    let service = ServiceType::default();
    let mut now = Instant::now();
    let Some(mut browse) = Browse::new(&service, MOST, now) else {
        return;
    };
    let mut rest = bytes;
    while !rest.is_empty() {
        let end = rest.windows(2).position(|pair| pair == [0xff, 0xff]);
        let (datagram, next) = rest.split_at(end.unwrap_or(rest.len()));
        browse.hear(datagram, now);
        rest = next.get(2..).unwrap_or_default();
        now += PAUSE;
    }
    let end = now + Duration::from_secs(60);
    while now < end {
        while let Some(question) = browse.ask(now) {
            assert!(question.len() <= PACKET + 72, "{} bytes", question.len());
        }
        let deadline = browse.deadline();
        assert!(deadline > now, "it would spin");
        now = deadline;
    }
    assert!(browse.services.len() <= MOST && browse.hosts.len() <= MOST);
}

#[cfg(test)]
mod tests;
