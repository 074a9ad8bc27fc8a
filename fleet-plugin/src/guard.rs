//! The guard of one plugin: a process between the host and the plugin. Start with [`guard`].
//!
//! Host and guard share a pipe that nobody writes to: it ends when the host does, also by SIGKILL. Guard and plugin share
//! a process group, so that one signal ends both and all that the plugin started.

use std::{
    io::{self, Write},
    os::unix::process::ExitStatusExt,
    path::Path,
    process::{Command, ExitCode, Stdio},
    thread,
};

use rustix::process::{Signal, getpgrp, getpid, kill_current_process_group};

/// The exit status when the plugin cannot be started, as shells have it.
const NOT_STARTED: u8 = 126;
/// What shells add to the number of the signal that ended a program.
const SIGNALLED: i32 = 128;

/// Runs `program` without arguments and answers its exit status, 128 + N when signal N ended it. When standard input
/// ends before that, the whole process group is killed, this process included.
///
/// Only for a process that a host started as the leader of a group of its own; any other is refused.
pub fn guard(program: &Path) -> ExitCode {
    if getpgrp() != getpid() {
        return fail("it is started by its host only");
    }
    // The thread is never joined: the process ends with the plugin.
    let watch = thread::Builder::new().spawn(|| {
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        let _ = kill_current_process_group(Signal::KILL);
    });
    if let Err(error) = watch {
        return fail(&format!("no thread: {error}"));
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
        Err(error) => fail(&format!("the plugin cannot be started: {error}")),
    }
}

/// Says why on standard error, which the host reads.
fn fail(why: &str) -> ExitCode {
    let _ = writeln!(io::stderr(), "guard: {why}");
    NOT_STARTED.into()
}
