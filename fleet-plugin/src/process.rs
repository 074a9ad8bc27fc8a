//! A plugin's process under its guard. Start with [`Process::spawn`].
//!
//! A thread waits for each: it kills what is left of the group between the end of the guard and the moment when the
//! system may give its number to somebody else.

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

/// How to start a plugin.
#[derive(Clone, Debug)]
pub(crate) struct Launch {
    /// The guard's program, and what it is given before the plugin's path.
    pub(crate) guard: (PathBuf, Vec<OsString>),
    pub(crate) program: PathBuf,
    /// The whole of it.
    pub(crate) environment: Vec<(OsString, OsString)>,
}

/// A process that was started. Dropping it kills it and all that it started.
#[derive(Debug)]
pub(crate) struct Process {
    pub(crate) stdout: Option<ChildStdout>,
    pub(crate) stderr: Option<ChildStderr>,
    group: Group,
    ended: oneshot::Receiver<io::Result<ExitStatus>>,
    /// Its end tells the guard that this process is gone.
    _lifeline: Option<ChildStdin>,
}

/// The process group of guard and plugin, while its number is theirs.
#[derive(Clone, Debug)]
struct Group(Arc<Mutex<Option<Pid>>>);

impl Process {
    /// Starts a plugin. When dropped before it is through, the plugin is killed.
    ///
    /// # Errors
    ///
    /// The guard cannot be started, or no thread can.
    pub(crate) async fn spawn(launch: &Launch) -> io::Result<Self> {
        let command = launch.command();
        let (tell_started, started) = oneshot::channel();
        let (tell_ended, ended) = oneshot::channel();
        let attend = move || attend(command, tell_started, tell_ended);
        thread::Builder::new()
            .name("plugin".to_owned())
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

    /// Kills the process and all that it started, without waiting.
    pub(crate) fn kill(&self) {
        self.group.kill();
    }

    /// Waits for its end and says how it ended. Cancel-safe.
    pub(crate) async fn ended(&mut self) -> String {
        match (&mut self.ended).await {
            Ok(Ok(status)) => told(status),
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
        let group = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(group) = *group {
            // An error means that nobody of it is left.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }

    /// Kills who is left; from now on the number may be somebody else's.
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

/// Starts a process, waits for its end, kills what it left behind.
fn attend(
    mut command: Command,
    tell_started: oneshot::Sender<io::Result<Started>>,
    tell_ended: oneshot::Sender<io::Result<ExitStatus>>,
) {
    let mut child = match command.spawn() {
        Ok(child) => child,
        Err(error) => {
            let _ = tell_started.send(Err(error));
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
    if tell_started.send(Ok(started)).is_err() {
        group.kill();
    }
    let _ = tell_ended.send(wait(&mut child, pid, &group));
}

fn wait(child: &mut Child, pid: Pid, group: &Group) -> io::Result<ExitStatus> {
    let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
    while waitid(WaitId::Pid(pid), options).err() == Some(Errno::INTR) {}
    group.close();
    child.wait()
}

/// How a guard says that a plugin ended.
fn told(status: ExitStatus) -> String {
    match status.code() {
        Some(code @ 129..=192) => format!("signal {} ended it", code - 128),
        Some(code) => format!("it ended with status {code}"),
        None => "it was killed".to_owned(),
    }
}

fn crashed() -> io::Error {
    io::Error::other("its thread crashed")
}
