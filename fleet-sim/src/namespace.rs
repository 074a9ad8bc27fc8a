//! Network namespaces of a test: interfaces, routes and sockets of their own, without contact to the machine's network.
//! Start with [`Namespace`]; [`Capture`] counts connection attempts at an interface.
//!
//! Namespaces need root and iproute2.

use std::{
    fs::File,
    io::{self, IoSliceMut},
    os::fd::{AsRawFd, OwnedFd},
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use nix::{
    errno::Errno,
    sched::{CloneFlags, setns, unshare},
    sys::{
        socket::{
            AddressFamily, ControlMessageOwned, MsgFlags, SockFlag, SockProtocol, SockType,
            recvmsg, setsockopt, socket, sockopt,
        },
        time::{TimeSpec, TimeVal, TimeValLike},
    },
};

/// Bytes of a frame that are kept: Ethernet, IPv4 and TCP headers.
const FRAME: usize = 128;

/// The receive buffer of a capture. It holds the frames of several seconds.
const RECEIVE_BUFFER: usize = 64 * 1024 * 1024;

/// How often a capture checks whether it is over.
const CHECK: i64 = 50;

/// A network namespace. It ends with its last process, thread and value.
#[derive(Debug)]
pub struct Namespace {
    file: File,
}

impl Namespace {
    /// Creates a namespace whose loopback interface is up.
    ///
    /// # Errors
    ///
    /// Without root, or where a sandbox permits no namespaces.
    pub fn new() -> io::Result<Self> {
        let created = thread::spawn(|| {
            // Only this thread moves. The open file keeps the namespace alive.
            unshare(CloneFlags::CLONE_NEWNET)?;
            File::open("/proc/thread-self/ns/net")
        });
        let file = created.join().map_err(|_| panicked())??;
        let namespace = Self { file };
        namespace.ip("link set lo up")?;
        Ok(namespace)
    }

    /// Runs a function on a thread inside. Threads and programs that it starts are inside, too.
    pub fn run<T: Send + 'static>(
        &self,
        function: impl FnOnce() -> T + Send + 'static,
    ) -> JoinHandle<io::Result<T>> {
        let file = self.file.try_clone();
        thread::spawn(move || {
            setns(file?, CloneFlags::CLONE_NEWNET)?;
            Ok(function())
        })
    }

    /// Runs `ip` commands, one per line.
    ///
    /// # Errors
    ///
    /// The first command that failed, with its message.
    pub fn ip(&self, commands: &str) -> io::Result<()> {
        let commands = commands.to_owned();
        let ran = self.run(move || commands.lines().try_for_each(ip));
        ran.join().map_err(|_| panicked())??
    }

    /// Connects two namespaces by a cable, each end by the name of its interface.
    ///
    /// # Errors
    ///
    /// When `ip` fails.
    pub fn cable(&self, own: &str, other: &Self, others: &str) -> io::Result<()> {
        let (process, file) = (std::process::id(), other.file.as_raw_fd());
        self.ip(&format!(
            "link add {own} type veth peer name {others} netns /proc/{process}/fd/{file}\n\
             link set {own} up"
        ))?;
        other.ip(&format!("link set {others} up"))
    }
}

fn ip(line: &str) -> io::Result<()> {
    let mut ip = Command::new("ip");
    let output = ip
        .args(line.split_whitespace())
        .stdin(Stdio::null())
        .output()?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("ip {line}: {}", reason.trim())))
}

fn panicked() -> io::Error {
    io::Error::other("a thread of the namespace panicked")
}

/// Records the time of each outgoing TCP SYN, as the kernel passes it to an interface. Repetitions by the kernel count.
#[derive(Debug)]
pub struct Capture {
    over: Arc<AtomicBool>,
    thread: JoinHandle<io::Result<Vec<Duration>>>,
}

impl Capture {
    /// Starts to capture on every interface of a namespace.
    ///
    /// # Errors
    ///
    /// Without root.
    pub fn start(namespace: &Namespace) -> io::Result<Self> {
        let opened = namespace.run(open);
        let socket = opened.join().map_err(|_| panicked())???;
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        Ok(Self {
            over,
            thread: thread::spawn(move || capture(&socket, &ends)),
        })
    }

    /// Ends the capture and returns the times, ascending.
    ///
    /// # Errors
    ///
    /// When the capture failed.
    pub fn end(self) -> io::Result<Vec<Duration>> {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().map_err(|_| panicked())?
    }
}

fn open() -> io::Result<OwnedFd> {
    let socket = socket(
        AddressFamily::Packet,
        SockType::Raw,
        SockFlag::SOCK_CLOEXEC,
        SockProtocol::EthAll,
    )?;
    setsockopt(&socket, sockopt::RcvBufForce, &RECEIVE_BUFFER)?;
    setsockopt(&socket, sockopt::ReceiveTimestampns, &true)?;
    setsockopt(
        &socket,
        sockopt::ReceiveTimeout,
        &TimeVal::milliseconds(CHECK),
    )?;
    Ok(socket)
}

fn capture(socket: &OwnedFd, over: &AtomicBool) -> io::Result<Vec<Duration>> {
    let mut times = Vec::new();
    loop {
        let mut frame = [0; FRAME];
        let mut parts = [IoSliceMut::new(&mut frame)];
        let mut control = nix::cmsg_space!(TimeSpec);
        let received = recvmsg::<()>(
            socket.as_raw_fd(),
            &mut parts,
            Some(&mut control),
            MsgFlags::empty(),
        );
        let message = match received {
            Ok(message) => message,
            // Nothing is left in the buffer.
            Err(Errno::EAGAIN) if over.load(Ordering::Relaxed) => break,
            Err(Errno::EAGAIN | Errno::EINTR) => continue,
            Err(error) => return Err(error.into()),
        };
        let time = message.cmsgs()?.find_map(|message| {
            let ControlMessageOwned::ScmTimestampns(time) = message else {
                return None;
            };
            Some(Duration::from(time))
        });
        let length = message.bytes;
        if let Some(time) = time.filter(|_| is_syn(frame.get(..length).unwrap_or_default())) {
            times.push(time);
        }
    }
    times.sort_unstable();
    Ok(times)
}

/// Whether an Ethernet frame holds an IPv4 TCP segment with SYN and without ACK.
fn is_syn(frame: &[u8]) -> bool {
    const IPV4: [u8; 2] = [8, 0];
    const TCP: u8 = 6;
    let is_tcp = frame.get(12..14) == Some(&IPV4) && frame.get(23) == Some(&TCP);
    // The low four bits of the first octet: words of the IPv4 header.
    let header = frame
        .get(14)
        .map_or(0, |first| usize::from(first & 0xf) * 4);
    let flags = frame.get(14 + header + 13).copied().unwrap_or_default();
    is_tcp && flags & 0x12 == 0x02
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_first_segment_of_a_connection_is_a_syn() {
        let mut frame = [0; 54];
        (frame[12], frame[14], frame[23]) = (8, 0x45, 6);
        for (flags, expected) in [(0x02, true), (0x12, false), (0x10, false), (0xc2, true)] {
            frame[47] = flags;
            assert_eq!(is_syn(&frame), expected, "{flags:#x}");
        }
        frame[23] = 17;
        assert!(!is_syn(&frame), "UDP");
        assert!(!is_syn(&[]));
    }
}
