//! The guard of one plugin: a process between the host and the plugin. Start with [`guard`].
//!
//! The guard's standard input is a pipe from the host that carries no data. It closes when the host ends, also by
//! SIGKILL. Guard and plugin share a process group, so one signal ends them and the plugin's children.

use std::{
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
};

use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group};

/// The exit status if the plugin cannot be started, as in shells.
const NOT_STARTED: u8 = 126;
/// Added to the number of the signal that ended a program, as in shells.
const SIGNALLED: i32 = 128;

/// Runs `program` without arguments and returns its exit status, or 128 + N if signal N ended it. If standard input
/// closes first, the whole process group is killed, including this process.
///
/// Works only in a process that a host started as the leader of a new process group. Other callers get an error.
pub fn guard(program: &Path) -> ExitCode {
    // In the group of a caller, such as a shell, the kill below would end the caller too.
    if getpgrp() != getpid() {
        return fail("only a plugin host can start it");
    }
    // The thread is never joined: the process ends with the plugin.
    let watch = thread::Builder::new().spawn(|| {
        // An error means the same as the end: the host is gone.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = kill_current_process_group(Signal::KILL);
    });
    if let Err(error) = watch {
        return fail(&format!("cannot start a thread: {error}"));
    }
    let ended = Command::new(program)
        .stdin(Stdio::null())
        .spawn()
        .and_then(|mut child| child.wait());
    match ended {
        Ok(status) => {
            let code = status
                .code()
                .or_else(|| Some(SIGNALLED + status.signal()?))
                .and_then(|code| u8::try_from(code).ok());
            code.unwrap_or(u8::MAX).into()
        }
        Err(error) => fail(&format!("cannot start the plugin: {error}")),
    }
}

/// Writes the reason to standard error, which the host reads.
fn fail(why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "guard: {why}");
    NOT_STARTED.into()
}
