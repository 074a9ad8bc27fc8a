//! The kill switch: a file in the state folder. While it is there the node scans nothing; it is looked for four times
//! a second, so that it works without the node's help, by hand too. Start with [`halt`].

use std::{
    fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use tokio::{sync::watch, time::interval};

/// The file. What is in it is the reason.
const FILE: &str = "halt";
/// How often it is looked for: a halted scan ends within the second that canceling takes.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Bytes of a reason.
const REASON: u64 = 512;

/// Stops the node that has this state folder, running or not.
pub(crate) fn halt(state_dir: &Path, reason: &str) -> anyhow::Result<()> {
    let file = state_dir.join(FILE);
    fs::write(&file, reason).with_context(|| {
        format!(
            "cannot write {}: run this as the user that runs the node, with its --state-dir",
            file.display()
        )
    })
}

/// Lets it scan again.
pub(crate) fn resume(state_dir: &Path) -> anyhow::Result<()> {
    let file = state_dir.join(FILE);
    match fs::remove_file(&file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", file.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Nothing is scanned: the site has halted its node.
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
            "scanning is halted on this node ({why}): `fleetnode resume` ends that"
        )
    }
}

impl std::error::Error for Halted {}

/// Why the node is halted, if it is. What cannot be looked at halts.
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

/// Follows the file for as long as somebody listens.
pub(crate) fn watch(state_dir: &Path) -> watch::Receiver<Option<String>> {
    let folder: PathBuf = state_dir.to_owned();
    let (tell, halted) = watch::channel(reason(&folder));
    tokio::spawn(async move {
        let mut look = interval(LOOK_EVERY);
        loop {
            tokio::select! {
                _ = look.tick() => {}
                () = tell.closed() => return,
            }
            let now = reason(&folder);
            tell.send_if_modified(|told| {
                let changed = *told != now;
                *told = now;
                changed
            });
        }
    });
    halted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_halt_has_its_reason_until_it_is_resumed() {
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
