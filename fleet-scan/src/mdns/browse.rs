//! DNS service discovery for one type of service (RFC 6762, RFC 6763): which queries are due, and which answers count.
//! Pure; time is an argument, datagrams are bytes.
//!
//! [`Browse::query`] returns the queries that are due, [`Browse::receive`] processes a datagram, and
//! [`Browse::deadline`] returns when to query again. hickory-proto parses the records. Answers are not authenticated.
//! Therefore only requested records are kept, no more than there are targets, and no answer can cause more than one
//! packet per [`PAUSE`].

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4},
    time::{Duration, Instant},
};

use fleet_core::{limits::NAME_ADDRESSES, text::is_unsafe};
use fleet_discovery::ServiceType;
use hickory_proto::{
    op::{Header, Message, MessageType, OpCode, Query},
    rr::{
        DNSClass, Name, RData, Record, RecordType,
        rdata::{PTR, TXT},
    },
    serialize::binary::{BinDecodable, BinDecoder},
};

/// Delay between the first two queries for the services. It doubles each time (RFC 6762, 5.2).
const QUERY_INTERVAL: Duration = Duration::from_secs(1);

/// The longest delay between two of them.
const MAX_QUERY_INTERVAL: Duration = Duration::from_secs(3_600);

/// How long related records may take to arrive, and the delay between two queries for missing records.
const PAUSE: Duration = Duration::from_millis(100);

/// Queries for a record that does not arrive by itself.
const TRIES: u8 = 3;

/// Names of missing records in one packet.
const NAMES: usize = 32;

/// Bytes of a query without headers. It fits an Ethernet frame.
const PACKET: usize = 1_400;

/// Bytes of a record without its names.
const RECORD: usize = 10;

/// Ports kept per host.
const PORTS: usize = 64;

/// Attributes kept per service, and the longest value in bytes. AxeOS announces five short ones.
const ATTRIBUTES: usize = 16;
const VALUE: usize = 64;

/// The longest key (RFC 6763, 6.4, advises nine characters).
const KEY: usize = 32;

/// The attributes of a service, from its TXT record (RFC 6763, 6). Keys are in lower case, values are printable text.
pub(crate) type Attributes = BTreeMap<String, String>;

/// The known services of one type on one link.
#[derive(Debug)]
pub(super) struct Browse {
    /// The service type with its subtype and its domain.
    service: Name,
    /// The same without the subtype: services are instances of it (RFC 6763, 7.1).
    base: Name,
    /// The most services, and the most hosts.
    most: usize,
    services: BTreeMap<Name, Service>,
    hosts: BTreeMap<Name, Host>,
    /// Endpoints that were not returned yet, with the names of their services.
    found: VecDeque<(SocketAddrV4, Name)>,
    next_query: Instant,
    query_interval: Duration,
    /// Records that may still arrive by themselves, with the time of the next query for them.
    missing: BTreeSet<(Instant, Missing)>,
    /// The earliest time of the next query for missing records.
    next_missing: Instant,
    is_full: bool,
}

#[derive(Debug)]
struct Service {
    /// The time of the last announcement, and its lifetime.
    named: Instant,
    holds: Duration,
    is_located: bool,
    attributes: Attributes,
}

#[derive(Debug, Default)]
struct Host {
    addresses: BTreeSet<Ipv4Addr>,
    /// Each port with the first service at it.
    ports: BTreeMap<u16, Name>,
    ipv6: Option<Ipv6Addr>,
}

/// A record that has not arrived, and the number of queries for it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Missing {
    name: Name,
    kind: Kind,
    tries: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    /// SRV: the host and port of a service.
    Location,
    /// A: an address of a host.
    Address,
}

/// The unresolved services and hosts at the end.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Rest {
    /// There was no room for all announced services.
    pub(super) is_full: bool,
    /// Services whose host is unknown.
    pub(super) unlocated: Vec<String>,
    /// Hosts without an IPv4 address.
    pub(super) ipv6_only: Vec<Ipv6Addr>,
}

impl Browse {
    /// Starts to query at `now` and keeps at most `most` services and hosts. Returns none if the type is not a valid
    /// DNS name. Every [`ServiceType`] is valid.
    pub(super) fn new(service: &ServiceType, most: usize, now: Instant) -> Option<Self> {
        Some(Self {
            service: Name::from_ascii(format!("{service}.local.")).ok()?,
            base: Name::from_ascii(format!("{}.local.", service.base())).ok()?,
            most,
            services: BTreeMap::new(),
            hosts: BTreeMap::new(),
            found: VecDeque::new(),
            next_query: now,
            query_interval: QUERY_INTERVAL,
            missing: BTreeSet::new(),
            next_missing: now,
            is_full: false,
        })
    }

    /// Returns the next packet to send, if one is due. Call this until it returns none.
    pub(super) fn query(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now >= self.next_query {
            self.next_query = now + self.query_interval;
            self.query_interval = (self.query_interval * 2).min(MAX_QUERY_INTERVAL);
            return self.query_services(now);
        }
        if now >= self.next_missing {
            return self.query_missing(now);
        }
        None
    }

    /// Returns when [`Browse::query`] has the next packet.
    pub(super) fn deadline(&self) -> Instant {
        let missing = self
            .missing
            .first()
            .map(|(due, _)| (*due).max(self.next_missing));
        missing.map_or(self.next_query, |missing| missing.min(self.next_query))
    }

    /// Processes a datagram.
    pub(super) fn receive(&mut self, datagram: &[u8], now: Instant) {
        let records = records(datagram);
        // Process records in the order of their references. They can arrive in any order.
        for record in &records {
            if let RData::PTR(PTR(instance)) = &record.data
                && record.name == self.service
            {
                self.on_ptr(instance, record.ttl, now);
            }
        }
        for record in &records {
            if let RData::TXT(txt) = &record.data {
                self.on_txt(&record.name, txt);
            }
        }
        for record in &records {
            if let RData::SRV(srv) = &record.data {
                self.on_srv(&record.name, &srv.target, srv.port, now);
            }
        }
        for record in &records {
            self.on_address(record);
        }
    }

    /// Returns the next address and port of a service with its attributes: each once per host, and again if attributes
    /// arrive later.
    pub(super) fn next_service(&mut self) -> Option<(SocketAddrV4, Attributes)> {
        let (at, name) = self.found.pop_front()?;
        let service = self.services.get(&name);
        let attributes = service.map(|service| service.attributes.clone());
        Some((at, attributes.unwrap_or_default()))
    }

    /// Returns the services and hosts without an address.
    pub(super) fn rest(self) -> Rest {
        let unlocated = self.services.into_iter();
        let unlocated = unlocated.filter(|(_, service)| !service.is_located);
        let hosts = self.hosts.into_values();
        let ipv6_only = hosts.filter(|host| host.addresses.is_empty());
        Rest {
            is_full: self.is_full,
            unlocated: unlocated.map(|(name, _)| name.to_string()).collect(),
            ipv6_only: ipv6_only.filter_map(|host| host.ipv6).collect(),
        }
    }

    /// Queries for services and lists the known ones, which then do not answer again (RFC 6762, 7.1).
    fn query_services(&self, now: Instant) -> Option<Vec<u8>> {
        let mut message = query_message([Query::query(self.service.clone(), RecordType::PTR)]);
        let mut room = PACKET.saturating_sub(2 * self.service.len());
        for (instance, service) in &self.services {
            let holds = (service.named + service.holds).saturating_duration_since(now);
            let length = instance.len() + self.service.len() + RECORD;
            // Responders ignore a known answer with less than half of its lifetime left (RFC 6762,
            // 7.1).
            if holds < service.holds / 2 || room < length {
                continue;
            }
            room -= length;
            // The value came from 32 bits.
            let ttl = u32::try_from(holds.as_secs()).unwrap_or(u32::MAX);
            let known = RData::PTR(PTR(instance.clone()));
            message.add_answer(Record::from_rdata(self.service.clone(), ttl, known));
        }
        message.to_vec().ok()
    }

    fn query_missing(&mut self, now: Instant) -> Option<Vec<u8>> {
        let mut queries: Vec<Query> = Vec::new();
        let mut room = PACKET;
        while let Some((due, missing)) = self.missing.first() {
            let length = missing.name.len() + RECORD;
            if *due > now || queries.len() == NAMES || room < length {
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
            queries.push(Query::query(missing.name.clone(), kind));
            let tries = missing.tries + 1;
            if tries < TRIES {
                let again = now + QUERY_INTERVAL * u32::from(tries);
                self.missing.insert((again, Missing { tries, ..missing }));
            }
        }
        if queries.is_empty() {
            return None;
        }
        self.next_missing = now + PAUSE;
        query_message(queries).to_vec().ok()
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

    /// Adds a service of this name. A lifetime of 0 withdraws it.
    fn on_ptr(&mut self, instance: &Name, ttl: u32, now: Instant) {
        let is_instance =
            instance.num_labels() == self.base.num_labels() + 1 && self.base.zone_of(instance);
        if !is_instance || ttl == 0 {
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
                attributes: Attributes::new(),
            };
            self.services.insert(instance.clone(), service);
            self.expect(instance, Kind::Location, now);
        } else {
            self.is_full = true;
        }
    }

    /// Records the attributes of a service. The first record counts, because a later one cannot be told from a forged one.
    fn on_txt(&mut self, instance: &Name, txt: &TXT) {
        let Some(service) = self.services.get_mut(instance) else {
            return;
        };
        if !service.attributes.is_empty() {
            return;
        }
        service.attributes = attributes(txt);
        if !service.is_located || service.attributes.is_empty() {
            return;
        }
        for host in self.hosts.values() {
            let ports = host.ports.iter().filter(|(_, name)| *name == instance);
            for (port, name) in ports {
                let addresses = host.addresses.iter();
                let found = addresses.map(|ip| (SocketAddrV4::new(*ip, *port), name.clone()));
                self.found.extend(found);
            }
        }
    }

    /// Records the host and port of a service.
    fn on_srv(&mut self, instance: &Name, target: &Name, port: u16, now: Instant) {
        // A target of `.` means that the service is not available (RFC 2782).
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
        if host.ports.contains_key(&port) {
            return;
        }
        if host.ports.len() >= PORTS {
            self.is_full = true;
            return;
        }
        host.ports.insert(port, instance.clone());
        let addresses = host.addresses.iter();
        self.found
            .extend(addresses.map(|ip| (SocketAddrV4::new(*ip, port), instance.clone())));
    }

    /// Records an address of a host.
    fn on_address(&mut self, record: &Record) {
        // A lifetime of 0 withdraws the address (RFC 6762, 10.1).
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
        self.found
            .extend(ports.map(|(port, name)| (SocketAddrV4::new(ip.0, *port), name.clone())));
    }
}

/// Reads the attributes of a TXT record. Entries that are not short printable text are left out. The first of several
/// entries with one key counts (RFC 6763, 6.4).
fn attributes(txt: &TXT) -> Attributes {
    let mut read = Attributes::new();
    for entry in &txt.txt_data {
        let Some((key, value)) = std::str::from_utf8(entry)
            .ok()
            .and_then(|entry| entry.split_once('='))
        else {
            continue;
        };
        let is_key = (1..=KEY).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let is_value = value.len() <= VALUE && !value.chars().any(is_unsafe);
        if is_key && is_value && read.len() < ATTRIBUTES {
            let key = key.to_ascii_lowercase();
            read.entry(key).or_insert_with(|| value.to_owned());
        }
    }
    read
}

pub(crate) fn query_message(queries: impl IntoIterator<Item = Query>) -> Message {
    // The id of a multicast query is 0 (RFC 6762, 18.1).
    let mut message = Message::new(0, MessageType::Query, OpCode::Query);
    message.queries.extend(queries);
    message
}

/// The readable records of a response; none for other messages. Records are parsed one by one, because devices send
/// invalid records, such as an empty TXT, that would invalidate the whole message.
pub(crate) fn records(datagram: &[u8]) -> Vec<Record> {
    let mut decoder = BinDecoder::new(datagram);
    let Ok(header) = Header::read(&mut decoder) else {
        return Vec::new();
    };
    // Messages with another code must be ignored (RFC 6762, 18.3).
    let is_response = header.metadata.message_type == MessageType::Response
        && header.metadata.op_code == OpCode::Query;
    let counts = header.counts;
    if !is_response || (0..counts.queries).any(|_| Query::read(&mut decoder).is_err()) {
        return Vec::new();
    }
    let count = [counts.answers, counts.authorities, counts.additionals].map(usize::from);
    // The counts are claims of the sender. Reading ends with the bytes.
    let all = std::iter::from_fn(|| Record::read(&mut decoder).ok());
    all.take(count.iter().sum()).filter(is_internet).collect()
}

/// Whether the class is IN, with or without the cache-flush bit (RFC 6762, 10.2).
fn is_internet(record: &Record) -> bool {
    const FLUSH: u16 = 1 << 15;
    u16::from(record.dns_class) & !FLUSH == u16::from(DNSClass::IN)
}

/// Receives datagrams that are separated by `0xff 0xff`, and sends all queries of the following minute.
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
        browse.receive(datagram, now);
        rest = next.get(2..).unwrap_or_default();
        now += PAUSE;
    }
    let end = now + Duration::from_secs(60);
    while now < end {
        while let Some(query) = browse.query(now) {
            assert!(query.len() <= PACKET + 72, "{} bytes", query.len());
        }
        let deadline = browse.deadline();
        assert!(deadline > now, "it would spin");
        now = deadline;
    }
    assert!(browse.services.len() <= MOST && browse.hosts.len() <= MOST);
    for attributes in browse.services.values().map(|service| &service.attributes) {
        assert!(attributes.len() <= ATTRIBUTES);
        assert!(attributes.values().all(|value| value.len() <= VALUE));
    }
}

#[cfg(test)]
mod tests;
