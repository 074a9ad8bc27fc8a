//! A child process that logs to a file. Dropping the handle ends the process, and a failed test prints its log.
//! The process stays in the process group of the test, because a signal to the test run must end it too.

use std::{
    fs::{File, OpenOptions},
    io::{Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use super::within;

/// Number of bytes printed from the end of a log when a test fails.
const TAIL: u64 = 24 * 1_024;

/// A running child process.
#[derive(Debug)]
pub(crate) struct Process {
    name: String,
    child: Child,
    id: Pid,
    log: PathBuf,
}

impl Process {
    /// Starts the process; its output is appended to `log`.
    pub(crate) fn spawn(name: &str, mut command: Command, log: &Path) -> Self {
        let file = append(log);
        let output = file.try_clone().expect("a second handle of the log");
        command.stdin(Stdio::null()).stdout(output).stderr(file);
        let child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{name} does not start: {error}"));
        let id = child
            .id()
            .and_then(|id| Pid::from_raw(id.cast_signed()))
            .expect("a process that was just started has an id");
        Self {
            name: name.to_owned(),
            child,
            id,
            log: log.to_owned(),
        }
    }

    /// Ends the process with SIGKILL, so it can neither notify nor flush.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::KILL);
        self.ended().await;
    }

    /// Ends the process with SIGTERM and returns its exit status.
    pub(crate) async fn terminate(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.ended().await
    }

    /// Waits until the process exits.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let what = format!("the end of {}", self.name);
        within(&what, self.child.wait())
            .await
            .expect("a child can be waited for")
    }

    /// Returns the exit status, if the process has exited.
    pub(crate) fn has_ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked")
    }

    /// The process id.
    pub(crate) fn id(&self) -> i32 {
        self.id.as_raw_nonzero().get()
    }

    /// The process has not been waited for, so its id cannot belong to another process.
    fn signal(&self, signal: Signal) {
        kill_process(self.id, signal).expect("a child can be sent a signal");
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error means that the process has already exited.
        let _ = self.child.start_kill();
        if std::thread::panicking() {
            show(&self.name, &self.log);
        }
    }
}

/// Opens a log for appending, because a restarted process continues it.
fn append(log: &Path) -> File {
    OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap_or_else(|error| panic!("{} cannot be opened: {error}", log.display()))
}

#[expect(
    clippy::print_stderr,
    reason = "the test runner shows it with the failed test"
)]
fn show(name: &str, log: &Path) {
    let tail = File::open(log).and_then(|mut file| {
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    });
    match tail {
        Ok(text) => eprintln!("--- log of {name}\n{text}--- end of the log of {name}"),
        Err(error) => eprintln!("--- no log of {name}: {error}"),
    }
}
