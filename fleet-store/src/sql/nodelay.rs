//! TCP_NODELAY on connections to PostgreSQL. Read [`set_on_connections_to`] first.
//!
//! sqlx 0.9.0 does not set this option (its issue 4335), and does not give access to its sockets. The last segment of
//! a large statement then waits until the server acknowledges the ones before it, which Linux delays by 40 ms. This
//! module finds the sockets among the descriptors of the process. Remove it when sqlx sets the option itself.

use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsRawFd, OwnedFd, RawFd},
};

use nix::sys::socket::{ControlMessage, MsgFlags, SockaddrStorage, getpeername, sendmsg};
use rustix::{
    cmsg_space,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags,
        SocketType, recvmsg, socketpair, sockopt::set_tcp_nodelay,
    },
};

/// Sets the option on every TCP connection of this process to a port of any host. Returns the number of connections.
///
/// # Errors
///
/// The error of reading the list of descriptors, `/proc/self/fd`.
pub(crate) fn set_on_connections_to(port: u16) -> io::Result<usize> {
    let sockets = connections_to(port)?;
    // An error means that the other end has closed the connection.
    let set = |socket: &OwnedFd| set_tcp_nodelay(socket, true).is_ok();
    Ok(sockets.iter().filter(|socket| set(socket)).count())
}

/// Duplicates of the sockets that are connected to a port.
fn connections_to(port: u16) -> io::Result<Vec<OwnedFd>> {
    let mut sockets = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd")? {
        let name = entry?.file_name();
        let number = name.to_str().and_then(|name| name.parse::<RawFd>().ok());
        // Another thread may have closed the descriptor since.
        if let Some(number) = number.filter(|number| peer_port(*number) == Some(port))
            && let Ok(socket) = duplicate(number)
        {
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

/// The port of the other end; none if the descriptor is not a connected TCP socket.
fn peer_port(number: RawFd) -> Option<u16> {
    let peer = getpeername::<SockaddrStorage>(number).ok()?;
    let v4 = peer.as_sockaddr_in().map(|peer| peer.port());
    v4.or_else(|| peer.as_sockaddr_in6().map(|peer| peer.port()))
}

/// Duplicates a descriptor that is known by its number only. The kernel does this for a descriptor that is sent over a
/// local socket. `dup` would need unsafe code, and the system call filter of systemd's service units denies
/// `pidfd_getfd`.
fn duplicate(number: RawFd) -> io::Result<OwnedFd> {
    let (to, from) = socketpair(
        AddressFamily::UNIX,
        SocketType::DGRAM,
        SocketFlags::CLOEXEC,
        None,
    )?;
    sendmsg::<()>(
        to.as_raw_fd(),
        &[IoSlice::new(b"0")],
        &[ControlMessage::ScmRights(&[number])],
        MsgFlags::empty(),
        None,
    )?;
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    recvmsg(
        &from,
        &mut [IoSliceMut::new(&mut [0])],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )?;
    let mut descriptors = control.drain().filter_map(|message| {
        if let RecvAncillaryMessage::ScmRights(mut descriptors) = message {
            descriptors.next()
        } else {
            None
        }
    });
    descriptors
        .next()
        .ok_or_else(|| io::Error::other("no descriptor was received"))
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};

    use rustix::net::sockopt::tcp_nodelay;
    use tokio::io::copy_bidirectional;

    use super::*;
    use crate::{
        SqlStore, StoreOptions,
        sql::url::{DatabaseUrl, Engine},
    };

    fn listener() -> (TcpListener, u16) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        (listener, port)
    }

    #[test]
    fn connections_to_the_port_get_the_option_and_others_do_not() {
        let (database, port) = listener();
        let (other, other_port) = listener();
        let connect = |port| TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("connected");
        let connections = [connect(port), connect(port)];
        let elsewhere = connect(other_port);
        assert_eq!(set_on_connections_to(port).expect("listed"), 2);
        for connection in &connections {
            assert!(connection.nodelay().expect("read"));
        }
        assert!(!elsewhere.nodelay().expect("read"));
        drop((database, other));
    }

    /// Every connection of a store has the option. A forwarder gives the database a port that no other test uses.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_of_a_store_to_postgres_have_the_option() {
        let Ok(server) = std::env::var("FLEET_TEST_POSTGRES") else {
            return;
        };
        let database = DatabaseUrl::parse(&server).expect("a URL");
        let Engine::Postgres(options) = database.engine() else {
            panic!("not PostgreSQL: {database}")
        };
        let to = (options.get_host().to_owned(), options.get_port());
        let (listener, port) = listener();
        listener.set_nonblocking(true).expect("non-blocking");
        let listener = tokio::net::TcpListener::from_std(listener).expect("listening");
        tokio::spawn(async move {
            while let Ok((mut client, _)) = listener.accept().await {
                let mut server = tokio::net::TcpStream::connect(&to)
                    .await
                    .expect("connected");
                tokio::spawn(async move { copy_bidirectional(&mut client, &mut server).await });
            }
        });
        let (user, name) = (options.get_username(), options.get_database());
        let url = format!(
            "postgres://{user}@127.0.0.1:{port}/{}",
            name.unwrap_or(user)
        );
        let store = SqlStore::connect(&url, StoreOptions::default()).await;
        let store = store.expect("connected");
        let sockets = connections_to(port).expect("listed");
        assert!(!sockets.is_empty());
        for socket in &sockets {
            assert!(tcp_nodelay(socket).expect("read"));
        }
        store.close().await;
    }
}
