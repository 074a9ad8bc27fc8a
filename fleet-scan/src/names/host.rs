//! The names of hosts that a scan found, by the site's name servers or else by the host itself. They are shown to people
//! and decide nothing.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddrV4},
    sync::Arc,
    time::Duration,
};

use fleet_core::{Endpoint, NameSource, NamedBy, Port};
use hickory_proto::{
    op::Query,
    rr::{Name, RData, RecordType},
};
use tokio::{net::UdpSocket, time::timeout};

use super::Resolver;
use crate::{guard::Guard, mdns};

/// How long the name servers, and then the host, may each delay the report of the host.
const WAIT: Duration = Duration::from_millis(500);

/// Looks up the names of hosts.
#[derive(Debug, Clone)]
pub(crate) struct HostNames {
    resolver: Arc<dyn Resolver>,
    guard: Guard,
}

impl HostNames {
    pub(crate) fn new(resolver: Arc<dyn Resolver>, guard: Guard) -> Self {
        Self { resolver, guard }
    }

    /// Returns the name of a host, and whether the name servers gave an answer in time. They are asked first, if
    /// `servers`. Without a name of theirs, the host itself is asked, unless the guard forbids its port.
    pub(crate) async fn of(&self, ip: IpAddr, servers: bool) -> (Option<NamedBy>, bool) {
        let answer = if servers {
            timeout(WAIT, self.resolver.reverse(ip)).await.ok()
        } else {
            None
        };
        match answer {
            Some(Some(name)) => (Some(name), true),
            None | Some(None) => (self.own(ip).await, answer.is_some()),
        }
    }

    async fn own(&self, ip: IpAddr) -> Option<NamedBy> {
        let port = Port::new(mdns::PORT)?;
        self.guard.check(Endpoint { ip, port }).ok()?;
        asked(ip, mdns::PORT).await
    }
}

/// Asks the host itself for its name, by a direct query of multicast DNS (RFC 6762, 5.5).
async fn asked(ip: IpAddr, port: u16) -> Option<NamedBy> {
    let IpAddr::V4(ip) = ip else {
        return None;
    };
    timeout(WAIT, ask(ip, port)).await.ok().flatten()
}

async fn ask(ip: Ipv4Addr, port: u16) -> Option<NamedBy> {
    let socket = UdpSocket::bind(SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0))
        .await
        .ok()?;
    // Connected, so a host without a responder refuses at once, and answers of other hosts do not count.
    socket.connect(SocketAddrV4::new(ip, port)).await.ok()?;
    let name = Name::from(IpAddr::V4(ip));
    let query = mdns::query_message([Query::query(name.clone(), RecordType::PTR)]);
    socket.send(&query.to_vec().ok()?).await.ok()?;
    let mut datagram = vec![0; 1_500];
    let length = socket.recv(&mut datagram).await.ok()?;
    let answers = mdns::records(datagram.get(..length)?);
    let mut names = answers.into_iter().filter_map(|record| {
        let RData::PTR(found) = &record.data else {
            return None;
        };
        if record.name != name {
            return None;
        }
        NamedBy::new(&found.to_ascii(), NameSource::Mdns)
    });
    names.next()
}

#[cfg(test)]
mod tests {
    use hickory_proto::{
        op::{Message, MessageType, OpCode},
        rr::{Record, rdata::PTR},
    };

    use super::*;

    /// Answers one query with these names, as records of the queried name or of another.
    async fn responder(names: &'static [(&'static str, bool)]) -> u16 {
        let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
        let port = socket.local_addr().expect("an address").port();
        tokio::spawn(async move {
            let mut datagram = vec![0; 1_500];
            let (length, from) = socket.recv_from(&mut datagram).await.expect("a query");
            let query = Message::from_vec(&datagram[..length]).expect("a message");
            let asked = query.queries[0].name().clone();
            let mut answer = Message::new(0, MessageType::Response, OpCode::Query);
            for (name, is_asked) in names {
                let owner = if *is_asked {
                    asked.clone()
                } else {
                    Name::from(IpAddr::from([127, 0, 0, 9]))
                };
                let target = Name::from_ascii(name).expect("a name");
                answer
                    .answers
                    .push(Record::from_rdata(owner, 120, RData::PTR(PTR(target))));
            }
            let bytes = answer.to_vec().expect("bytes");
            socket.send_to(&bytes, from).await.expect("sent");
        });
        port
    }

    #[tokio::test]
    async fn only_the_name_of_the_host_itself_counts() {
        let own = Ipv4Addr::LOCALHOST.into();
        let port = responder(&[("other.local.", false), ("bitaxe.local.", true)]).await;
        let name = asked(own, port).await.expect("a name");
        assert_eq!(
            (&*name.name, name.source),
            ("bitaxe.local", NameSource::Mdns)
        );
        let port = responder(&[("other.local.", false)]).await;
        assert_eq!(asked(own, port).await, None);
        // Nobody answers.
        assert_eq!(asked(own, 1).await, None);
    }
}
