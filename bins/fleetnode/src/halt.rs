//! The kill switch: a file in the state folder. While it exists, the node scans nothing. The node checks for it four times
//! per second, so creating the file by hand works too. Start with [`halt`].

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, time::interval};

/// The name of the file. Its content is the reason.
const FILE: &str = "halt";
/// How often the file is checked. A halt must stop a scan within one second, including the time for the cancel.
const CHECK_INTERVAL: Duration = Duration::from_millis(250);
/// Longest reason, in bytes.
const REASON: u64 = 512;

/// Halts the node with this state folder, whether or not it is running.
pub(crate) fn halt(state_dir: &Path, reason: &str) -> anyhow::Result<()> {
    let file = state_dir.join(FILE);
    fs::write(&file, reason).with_context(|| {
        format!(
            "cannot write {}; run this command as the node's user, with its --state-dir",
            file.display()
        )
    })
}

/// Ends the halt.
pub(crate) fn resume(state_dir: &Path) -> anyhow::Result<()> {
    let file = state_dir.join(FILE);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The node is halted.
#[derive(Debug)]
pub(crate) struct Halted(pub(crate) String);

impl std::fmt::Display for Halted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self(reason) = self;
        let why = if reason.is_empty() {
            "no reason given"
        } else {
            reason
        };
        write!(
            f,
            "scanning is halted on this node ({why}); `fleetnode resume` ends the halt"
        )
    }
}

impl std::error::Error for Halted {}

/// The reason of the halt, if the node is halted. A file that cannot be read counts as a halt.
pub(crate) fn reason(state_dir: &Path) -> Option<String> {
    let file = state_dir.join(FILE);
    let mut bytes = Vec::new();
    let read = fs::File::open(&file).and_then(|open| open.take(REASON).read_to_end(&mut bytes));
    match read {
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) => return Some(format!("{} cannot be read: {error}", file.display())),
    }
    Some(
        String::from_utf8_lossy(&bytes)
            .trim()
            .escape_debug()
            .to_string(),
    )
}

/// Watches the file until the receiver is dropped.
pub(crate) fn watch(state_dir: &Path) -> watch::Receiver<Option<String>> {
    let folder: PathBuf = state_dir.to_owned();
    let (sender, receiver) = watch::channel(reason(&folder));
    tokio::spawn(async move {
        let mut check = interval(CHECK_INTERVAL);
        loop {
            tokio::select! {
                _ = check.tick() => {}
                () = sender.closed() => return,
            }
            let now = reason(&folder);
            sender.send_if_modified(|known| {
                let changed = *known != now;
                *known = now;
                changed
            });
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_has_its_reason_until_resume() {
        let folder = tempfile::tempdir().expect("a folder");
        let here = || reason(folder.path());
        assert_eq!(here(), None);
        halt(folder.path(), "new switch\u{1b}").expect("halts");
        assert_eq!(here().as_deref(), Some("new switch\\u{1b}"));
        resume(folder.path()).expect("resumes");
        assert_eq!(here(), None);
        resume(folder.path()).expect("resumes again");
    }
}
