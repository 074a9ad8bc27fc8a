//! [`ServeLock`]: one server at a time serves a SQLite file.

use std::{
    fmt,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read, Seek, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// The right to serve a SQLite file. The kernel releases it when the process ends, however it ends.
#[derive(Debug)]
pub(crate) struct ServeLock {
    _file: File,
}

/// The SQLite file cannot be served.
#[derive(Debug)]
pub(crate) enum LockError {
    /// Another process serves it.
    Held {
        database: PathBuf,
        /// The process id, if it could be read.
        holder: String,
    },
    /// The lock file cannot be used.
    Io { lock: PathBuf, source: io::Error },
}

impl fmt::Display for LockError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Held { database, holder } => write!(
                f,
                "process {holder} already serves the SQLite file {}: stop that process, use another file with --database-url, or use PostgreSQL for several servers",
                database.display()
            ),
            Self::Io { lock, source } => {
                write!(f, "cannot open the lock file {}: {source}", lock.display())
            }
        }
    }
}

impl std::error::Error for LockError {}

impl ServeLock {
    /// Locks `FILE.lock` beside a SQLite file and writes the process id into it. The SQLite file need not exist.
    ///
    /// # Errors
    ///
    /// [`LockError::Held`] names the process that has the lock.
    pub(crate) fn acquire(database: &Path) -> Result<Self, LockError> {
        let lock = lock_file(database);
        let failed = |source| LockError::Io {
            lock: lock.clone(),
            source,
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock)
            .map_err(failed)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    database: database.to_owned(),
                    holder: holder(&mut file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(failed(source)),
        }
        // On a full disk the id is missing. The lock itself needs no space.
        let _ = write_id(&mut file);
        Ok(Self { _file: file })
    }
}

/// The path of the lock file. Links to one database lead to one lock file.
fn lock_file(database: &Path) -> PathBuf {
    let real = std::fs::canonicalize(database).or_else(|missing| {
        let folder = database.parent().filter(|folder| *folder != Path::new(""));
        let folder = std::fs::canonicalize(folder.unwrap_or(Path::new(".")))?;
        database
            .file_name()
            .map(|name| folder.join(name))
            .ok_or(missing)
    });
    let mut path = real
        .unwrap_or_else(|_| database.to_owned())
        .into_os_string();
    path.push(".lock");
    path.into()
}

fn write_id(file: &mut File) -> io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

/// The process id in a lock file.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let digits = text.trim();
    if read.is_ok() && !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit()) {
        digits.to_owned()
    } else {
        "of unknown id".to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_locked_file_names_its_holder_under_every_name() {
        let folder = tempfile::tempdir().expect("a folder");
        let database = folder.path().join("fleet.db");
        std::fs::write(&database, "").expect("written");
        let link = folder.path().join("link.db");
        std::os::unix::fs::symlink(&database, &link).expect("linked");
        let held = ServeLock::acquire(&database).expect("free");
        for name in [&database, &link] {
            let refused = ServeLock::acquire(name).expect_err("held").to_string();
            let holder = format!("process {} ", std::process::id());
            assert!(refused.starts_with(&holder), "{refused}");
        }
        drop(held);
        ServeLock::acquire(&link).expect("free again");
    }
}
