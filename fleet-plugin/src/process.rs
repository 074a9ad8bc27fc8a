//! A plugin's process under its guard. Start with [`Process::spawn`].
//!
//! A thread waits for each guard. Between the end of the guard and the moment when the system may reuse its process id,
//! the thread kills the rest of the group.

use std::{
    ffi::OsString,
    io,
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
};

use rustix::{
    io::Errno,
    process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid},
};
use tokio::{
    process::{ChildStderr, ChildStdout},
    sync::oneshot,
};

/// The command line and environment of a plugin.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The guard's program, and its arguments before the plugin's path.
    pub(crate) guard: (PathBuf, Vec<OsString>),
    pub(crate) program: PathBuf,
    /// The complete environment.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// A running process. Dropping it kills the process and its children.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
    group: Group,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    /// The guard kills the plugin when this pipe closes.
    _lifeline: Option<ChildStdin>,
}

/// The process group of guard and plugin; none once its id may be reused.
#[derive(Clone, Debug)]
struct Group(Arc<Mutex<Option<Pid>>>);

impl Process {
    /// Starts a plugin. If the future is dropped before it completes, the plugin is killed.
    ///
    /// # Errors
    ///
    /// The guard or its thread cannot be started.
    pub(crate) async fn spawn(launch: &Launch) -> io::Result<Self> {
        let command = launch.command();
        let (started_tx, started) = oneshot::channel();
        let (ended_tx, ended) = oneshot::channel();
        let attend = move || attend(command, started_tx, ended_tx);
        thread::Builder::new()
            .name("plugin".to_owned())
            // The thread only waits, and a node can have 64 plugins.
            .stack_size(64 * 1_024)
            .spawn(attend)?;
        let Started {
            group,
            stdin,
            stdout,
            stderr,
        } = started.await.unwrap_or_else(|_| Err(crashed()))?;
        Ok(Self {
            group,
            ended,
            stdout: stdout.map(ChildStdout::from_std).transpose()?,
            stderr: stderr.map(ChildStderr::from_std).transpose()?,
            _lifeline: stdin,
        })
    }

    /// Kills the process and its children, without waiting.
    pub(crate) fn kill(&self) {
        self.group.kill();
    }

    /// Waits for its end and describes how it ended. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> String {
        match (&mut self.ended).await {
            Ok(Ok(status)) => describe(status),
            Ok(Err(error)) => format!("it cannot be waited for: {error}"),
            Err(_) => format!("it cannot be waited for: {}", crashed()),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.group.kill();
    }
}

impl Launch {
    fn command(&self) -> Command {
        let (guard, arguments) = &self.guard;
        let mut command = Command::new(guard);
        command
            .args(arguments)
            .arg(&self.program)
            .env_clear()
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        command
    }

    /// The file that is run.
    pub(crate) fn program(&self) -> &Path {
        &self.program
    }
}

impl Group {
    fn kill(&self) {
        // The lock is held during the kill, because the id could otherwise be reused before it.
        let group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *group {
            // An error means that the group has no process left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Kills the rest of the group and forgets its id, which the system may reuse from now on.
    fn close(&self) {
        self.kill();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

struct Started {
    group: Group,
    stdin: Option<ChildStdin>,
    stdout: Option<std::process::ChildStdout>,
    stderr: Option<std::process::ChildStderr>,
}

/// Starts a process, waits for its end, and kills its remaining children.
fn attend(
    mut command: Command,
    started_tx: oneshot::Sender<io::Result<Started>>,
    ended_tx: oneshot::Sender<io::Result<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            // The receiver is gone if the caller was dropped.
            let _ = started_tx.send(Err(error));
            return;
        }
    };
    let pid = Pid::from_child(&child);
    let group = Group(Arc::new(Mutex::new(Some(pid))));
    let started = Started {
        group: group.clone(),
        stdin: child.stdin.take(),
        stdout: child.stdout.take(),
        stderr: child.stderr.take(),
    };
    if started_tx.send(Ok(started)).is_err() {
        // The caller is gone, and nothing else would stop the plugin.
        group.kill();
    }
    let _ = ended_tx.send(wait(&mut child, pid, &group));
}

fn wait(child: &mut Child, pid: Pid, group: &Group) -> io::Result<ExitStatus> {
    // `NOWAIT` keeps the zombie, and with it the process id, until the rest of the group is killed.
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), options).err() == Some(Errno::INTR) {}
    group.close();
    child.wait()
}

/// Interprets the exit status of a guard.
fn describe(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("it was ended by signal {}", code - 128),
        Some(code) => format!("it ended with status {code}"),
        None => "it was killed".to_owned(),
    }
}

fn crashed() -> io::Error {
    io::Error::other("its thread crashed")
}
