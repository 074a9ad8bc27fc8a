//! Runs a [`Site`] on the network: one listener and one task per service. Every connection is bounded and recorded.
//!
//! Start with [`Lab::start`]. `lab/serve.rs` handles connections.

mod serve;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::{
    net::{TcpListener, TcpSocket},
    sync::Semaphore,
};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    journal::Journal,
    site::{Device, Service, Site, SiteError},
};

/// The listen backlog.
const BACKLOG: u32 = 128;

/// The limit of simultaneous connections of a site. Further ones wait in the listen backlogs.
const AT_ONCE: usize = 8192;

/// How long a listener pauses after the system could not accept a connection (no descriptors, no memory).
const REST: Duration = Duration::from_millis(50);

/// Starts sites.
#[derive(Debug)]
pub struct Lab;

/// A running site. Dropping it closes everything without waiting.
#[derive(Debug)]
pub struct RunningSite {
    site: Arc<Site>,
    journal: Journal,
    tasks: TaskTracker,
    stop: DropGuard,
}

/// Why a site could not start. No listener remains open.
#[derive(Debug, thiserror::Error)]
pub enum LabError {
    /// The description is inconsistent.
    #[error(transparent)]
    Site(#[from] SiteError),
    /// A listener could not be opened.
    #[error("cannot listen on {endpoint}{}", hint(source))]
    Bind {
        /// The endpoint of the listener.
        endpoint: SocketAddr,
        /// The error of the system.
        source: std::io::Error,
    },
}

fn hint(source: &std::io::Error) -> &'static str {
    use rustix::io::Errno;
    match Errno::from_io_error(source) {
        Some(Errno::ACCESS | Errno::PERM) => "; ports below 1024 need root, choose higher ones",
        Some(Errno::ADDRINUSE) => "; another site or program listens there",
        Some(Errno::ADDRNOTAVAIL) => "; the address is not one of this machine",
        Some(Errno::MFILE | Errno::NFILE) => "; raise the limit of open files (ulimit -n)",
        _ => "",
    }
}

impl Lab {
    /// Binds every listener of a site and serves connections. Raises the limit of open files as far as allowed.
    ///
    /// # Errors
    /// [`LabError`] contains the endpoint that could not be bound, and the reason.
    pub async fn start(site: Site) -> Result<RunningSite, LabError> {
        site.check()?;
        raise_descriptor_limit();
        let site = Arc::new(site);
        let journal = Journal::new();
        let tasks = TaskTracker::new();
        let stop = CancellationToken::new();
        let guard = stop.clone().drop_guard();
        let room = Arc::new(Semaphore::new(AT_ONCE));
        for (index, device) in site.devices.iter().enumerate() {
            for service in &device.services {
                let listener = listen(device, service)?;
                let host = Host {
                    site: Arc::clone(&site),
                    index,
                    service: service.clone(),
                    journal: journal.clone(),
                    tasks: tasks.clone(),
                    room: Arc::clone(&room),
                    stop: stop.clone(),
                };
                tasks.spawn(host.accept(listener));
            }
            // Thousands of binds take long, so yield to other tasks.
            tokio::task::yield_now().await;
        }
        tasks.close();
        Ok(RunningSite {
            site,
            journal,
            tasks,
            stop: guard,
        })
    }
}

impl RunningSite {
    /// The description of the site.
    pub fn site(&self) -> &Site {
        &self.site
    }

    /// The journal of the site. It stays readable after the site has stopped.
    pub fn journal(&self) -> &Journal {
        &self.journal
    }

    /// Closes all listeners and connections, and waits for the last one. Cancel-safe: a started shutdown continues.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tasks.wait().await;
    }
}

fn listen(device: &Device, service: &Service) -> Result<TcpListener, LabError> {
    let endpoint = SocketAddr::new(device.address, service.port);
    let open = || {
        let socket = if endpoint.is_ipv4() {
            TcpSocket::new_v4()?
        } else {
            TcpSocket::new_v6()?
        };
        // A site restarts at the same endpoints while old connections are in TIME_WAIT.
        socket.set_reuseaddr(true)?;
        socket.bind(endpoint)?;
        socket.listen(BACKLOG)
    };
    open().map_err(|source| LabError::Bind { endpoint, source })
}

/// Raises the soft limit of open files to the hard limit. Returns the current limit, or `u64::MAX` if unlimited.
pub fn raise_descriptor_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    let now = if setrlimit(Resource::Nofile, raised).is_ok() {
        limit.maximum
    } else {
        limit.current
    };
    now.unwrap_or(u64::MAX)
}

/// One listening service and the context of its task.
#[derive(Debug, Clone)]
struct Host {
    site: Arc<Site>,
    index: usize,
    service: Service,
    journal: Journal,
    tasks: TaskTracker,
    room: Arc<Semaphore>,
    stop: CancellationToken,
}

impl Host {
    async fn accept(self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            let (stream, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::debug!(%error, "a simulated device could not accept");
                    tokio::time::sleep(REST).await;
                    continue;
                }
            };
            let Ok(local) = stream.local_addr() else {
                continue;
            };
            let stream = Arc::new(stream);
            // Recorded before the wait for a permit: for the peer, the connection is open already.
            let number = self.journal.opened(local, peer, &stream);
            let Ok(permit) = Arc::clone(&self.room).acquire_owned().await else {
                return;
            };
            let host = self.clone();
            self.tasks.spawn(async move {
                let _permit = permit;
                tokio::select! {
                    () = host.stop.cancelled() => {}
                    () = serve::serve(&host, number, &stream) => {}
                }
                host.journal.closed(number, local.ip());
            });
        }
    }
}
