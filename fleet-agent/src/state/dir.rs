//! The state folder of a node: mode 0700, used by one process at a time, never through links. The state file is replaced
//! atomically.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Seek, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, OFlags, flock};

use super::StateFile;

/// Largest state file, in bytes. A valid one contains two keys and a few names.
const FILE_MOST: u64 = 64 * 1024;
/// Largest file of CA certificates, in bytes.
const CA_MOST: u64 = 1024 * 1024;
/// The state file.
const STATE_FILE: &str = "node.json";
/// The copy of the CA certificates. The state file refers to it by this relative path, so the folder can be moved.
const CA_FILE: &str = "ca.pem";

/// Why the state folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// A file operation failed.
    #[error("cannot {doing} {path}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// A file or the folder is unsafe.
    #[error("{path} {problem}")]
    Unsafe {
        /// The file or folder.
        path: PathBuf,
        /// The problem and its remedy.
        problem: String,
    },
    /// Another process uses the folder.
    #[error(
        "{path} is in use by process {holder}; stop that process first, or choose another --state-dir"
    )]
    Locked {
        /// The folder.
        path: PathBuf,
        /// The process id of the holder, if known.
        holder: String,
    },
    /// The file is not a valid state file.
    #[error("{path} is not a state file of this version: {detail}; move it away and enroll again")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// The position of the error, without any content.
        detail: String,
    },
}

/// A node's state folder, locked by this process until dropped.
#[derive(Debug)]
pub struct StateDir {
    path: PathBuf,
    _lock: File,
}

impl StateDir {
    /// Locks the folder, after creating it (0700) if it is missing.
    ///
    /// # Errors
    ///
    /// [`StateError::Unsafe`] if it is a link, belongs to another user, or is accessible to others;
    /// [`StateError::Locked`] if another process holds it.
    pub fn open(path: &Path) -> Result<Self, StateError> {
        let io = |doing| {
            move |source| StateError::Io {
                doing,
                path: path.to_owned(),
                source,
            }
        };
        match DirBuilder::new().mode(0o700).recursive(true).create(path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
                return Err(io("create")(error));
            }
            _ => {}
        }
        // A link could lead to a folder that another user controls.
        let meta = fs::symlink_metadata(path).map_err(io("read"))?;
        if !meta.is_dir() {
            return Err(unsafe_at(
                path,
                "is not a folder; specify a folder that belongs to the node",
            ));
        }
        check_private(path, &meta, 0o700)?;
        let lock = Self::lock(path)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// The process that holds the folder; none if it is free or missing. Changes nothing.
    pub fn holder(path: &Path) -> Option<String> {
        let mut file = OpenOptions::new()
            .read(true)
            .custom_flags(nofollow())
            .open(path.join("lock"))
            .ok()?;
        // A shared lock fails only while a process holds the exclusive one.
        flock(&file, FlockOperation::NonBlockingLockShared)
            .is_err()
            .then(|| holder_in(&mut file))
    }

    fn lock(dir: &Path) -> Result<File, StateError> {
        let path = dir.join("lock");
        let io = |doing| {
            let path = path.clone();
            move |source| StateError::Io {
                doing,
                path,
                source,
            }
        };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            // Truncation before the lock would erase the process id of the holder.
            .truncate(false)
            .mode(0o600)
            // Through a link, the process id would overwrite another file.
            .custom_flags(nofollow())
            .open(&path)
            .map_err(io("open"))?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let holder = holder_in(&mut file);
            return Err(StateError::Locked {
                path: dir.to_owned(),
                holder,
            });
        }
        let write = |file: &mut File| {
            file.set_len(0)?;
            file.rewind()?;
            writeln!(file, "{}", std::process::id())
        };
        write(&mut file).map_err(io("write"))?;
        Ok(file)
    }

    /// Reads the state; none if the node was never enrolled.
    ///
    /// # Errors
    ///
    /// [`StateError::Unsafe`] if the file is a link, belongs to another user, or is readable by others;
    /// [`StateError::Malformed`] if it is not a state file.
    pub fn load(&self) -> Result<Option<StateFile>, StateError> {
        read_state(&self.path)
    }

    /// Reads the state without a lock, while another process may hold the folder.
    ///
    /// # Errors
    ///
    /// As [`StateDir::load`].
    pub fn peek(path: &Path) -> Result<Option<StateFile>, StateError> {
        read_state(path)
    }

    /// Replaces the state: writes and syncs a new file, renames it over the old one, and syncs the folder. A crash leaves
    /// either the old state or the new one.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] names the failed step.
    pub fn save(&self, state: &StateFile) -> Result<(), StateError> {
        let mut state = state.clone();
        let relative = state
            .ca_file
            .as_deref()
            .map(|ca| ca.strip_prefix(&self.path));
        if let Some(Ok(relative)) = relative {
            state.ca_file = Some(relative.to_owned());
        }
        let path = self.path.join(STATE_FILE);
        let text = serde_json::to_vec_pretty(&state).map_err(|error| StateError::Io {
            doing: "encode",
            path: path.clone(),
            source: error.into(),
        })?;
        self.replace(&path, &zeroize::Zeroizing::new(text))
    }

    /// Copies a file of CA certificates into the folder and returns the path of the copy. The original may then change or
    /// disappear.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] names the file and the failed step.
    pub fn keep_ca(&self, source: &Path) -> Result<PathBuf, StateError> {
        let mut text = Vec::new();
        File::open(source)
            .and_then(|file| file.take(CA_MOST).read_to_end(&mut text))
            .map_err(|error| StateError::Io {
                doing: "read",
                path: source.to_owned(),
                source: error,
            })?;
        let path = self.path.join(CA_FILE);
        self.replace(&path, &text)?;
        Ok(path)
    }

    /// Deletes the state and the CA certificates.
    ///
    /// # Errors
    ///
    /// [`StateError::Io`] names the file that could not be deleted.
    pub fn clear(&self) -> Result<(), StateError> {
        for name in [STATE_FILE, CA_FILE] {
            let path = self.path.join(name);
            match fs::remove_file(&path) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    return Err(StateError::Io {
                        doing: "delete",
                        path,
                        source,
                    });
                }
                Ok(()) | Err(_) => {}
            }
        }
        self.sync()
    }

    /// Writes and syncs a new file, renames it over the old one, and syncs the folder.
    fn replace(&self, path: &Path, text: &[u8]) -> Result<(), StateError> {
        let temporary = path.with_extension("new");
        let io = |doing, path: &Path| {
            let path = path.to_owned();
            move |source| StateError::Io {
                doing,
                path,
                source,
            }
        };
        // A crash can leave this file behind. `create_new`
        // then uses neither its mode nor a link at its path.
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("replace", &temporary)(error));
            }
            _ => {}
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&temporary)
            .map_err(io("create", &temporary))?;
        file.write_all(text)
            // Without this, a power loss can keep the rename and lose the content.
            .and_then(|()| file.sync_all())
            .map_err(io("write", &temporary))?;
        fs::rename(&temporary, path).map_err(io("replace", path))?;
        // The rename itself is durable only after the folder is synced.
        self.sync()
    }

    fn sync(&self) -> Result<(), StateError> {
        File::open(&self.path)
            .and_then(|dir| dir.sync_all())
            .map_err(|source| StateError::Io {
                doing: "sync",
                path: self.path.clone(),
                source,
            })
    }

    /// The path of the folder.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

/// The process id in a lock file.
fn holder_in(file: &mut File) -> String {
    let mut holder = String::new();
    let read = file.take(32).read_to_string(&mut holder);
    let known = read.is_ok() && !holder.trim().is_empty();
    if known {
        holder.trim().to_owned()
    } else {
        "(unknown)".to_owned()
    }
}

fn read_state(folder: &Path) -> Result<Option<StateFile>, StateError> {
    let path = &folder.join(STATE_FILE);
    let io = |doing| {
        move |source| StateError::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    };
    let file = match OpenOptions::new()
        .read(true)
        .custom_flags(nofollow())
        .open(path)
    {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return Err(unsafe_at(
                path,
                "is a link; the state file must be a regular file that belongs to the node",
            ));
        }
        Err(error) => return Err(io("open")(error)),
    };
    // The open file is checked, because the path could lead to another one by now.
    check_private(path, &file.metadata().map_err(io("read"))?, 0o600)?;
    let mut text = zeroize::Zeroizing::new(Vec::new());
    file.take(FILE_MOST + 1)
        .read_to_end(&mut text)
        .map_err(io("read"))?;
    let malformed = |detail: String| StateError::Malformed {
        path: path.to_owned(),
        detail,
    };
    if text.len() as u64 > FILE_MOST {
        return Err(malformed(format!("it is larger than {FILE_MOST} bytes")));
    }
    // The messages of serde quote the content, which has secrets.
    let mut state: StateFile = serde_json::from_slice(&text)
        .map_err(|error| malformed(format!("line {}, column {}", error.line(), error.column())))?;
    if let Some(ca) = &mut state.ca_file {
        *ca = folder.join(&*ca);
    }
    Ok(Some(state))
}

/// Rejects a file or folder that another user owns or can access.
fn check_private(path: &Path, meta: &fs::Metadata, mode: u32) -> Result<(), StateError> {
    let me = rustix::process::geteuid().as_raw();
    if meta.uid() != me {
        return Err(unsafe_at(
            path,
            &format!(
                "belongs to user {}, not to user {me}; run as its owner, or choose another --state-dir",
                meta.uid()
            ),
        ));
    }
    if meta.mode() & 0o077 != 0 {
        return Err(unsafe_at(
            path,
            &format!(
                "is accessible to others (mode {:03o}); run `chmod {mode:o} {}`",
                meta.mode() & 0o777,
                path.display()
            ),
        ));
    }
    Ok(())
}

fn unsafe_at(path: &Path, problem: &str) -> StateError {
    StateError::Unsafe {
        path: path.to_owned(),
        problem: problem.to_owned(),
    }
}

fn nofollow() -> i32 {
    // The bits are those of the C constant, which fits an int.
    i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;
    use crate::state::{SecretKey, Stage};

    fn state() -> StateFile {
        StateFile {
            server_url: "https://fleet.example".into(),
            name: "barn".into(),
            identity_key: SecretKey::new([7; 32]),
            encryption_key: SecretKey::new([9; 32]),
            ca_file: None,
            allow_insecure_transport: false,
            upstream_server: false,
            imported: false,
            fleet_node_id: None,
            api_key: None,
        }
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let parent = tempfile::tempdir().expect("a temporary folder");
        let path = parent.path().join("node");
        (parent, path)
    }

    #[test]
    fn state_round_trips_and_debug_shows_no_secret() {
        let (_parent, path) = folder();
        let dir = StateDir::open(&path).expect("opens");
        assert!(dir.load().expect("reads").is_none());
        dir.save(&state()).expect("saves");
        dir.save(&StateFile {
            fleet_node_id: Some(4),
            ..state()
        })
        .expect("saves again");
        let read = dir.load().expect("reads").expect("is there");
        assert_eq!(
            (read.stage(), read.fingerprint()),
            (Stage::Registered, state().fingerprint())
        );
        assert!(!format!("{read:?}").contains("0707"));
        let mode = fs::metadata(path.join("node.json"))
            .expect("is there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn ca_certificates_are_copied_and_move_with_the_folder() {
        let (parent, path) = folder();
        let original = parent.path().join("site-ca.pem");
        fs::write(&original, "a certificate").expect("writes");
        let dir = StateDir::open(&path).expect("opens");
        let copy = dir.keep_ca(&original).expect("copies");
        dir.save(&StateFile {
            ca_file: Some(copy),
            ..state()
        })
        .expect("saves");
        drop(dir);
        fs::remove_file(&original).expect("deletes");
        let moved = parent.path().join("moved");
        fs::rename(&path, &moved).expect("moves");

        let dir = StateDir::open(&moved).expect("opens");
        let ca = dir.load().expect("reads").expect("is there").ca_file;
        let ca = ca.expect("a file of certificates");
        assert_eq!(fs::read_to_string(&ca).expect("reads"), "a certificate");
        dir.clear().expect("deletes");
        assert!(dir.load().expect("reads").is_none() && !ca.exists());
    }

    #[test]
    fn a_second_process_gets_the_id_of_the_holder() {
        let (_parent, path) = folder();
        let _held = StateDir::open(&path).expect("opens");
        let refused = StateDir::open(&path).expect_err("is held").to_string();
        assert!(
            refused.contains(&std::process::id().to_string()),
            "{refused}"
        );
        assert_eq!(
            StateDir::holder(&path),
            Some(std::process::id().to_string())
        );
    }

    #[test]
    fn links_and_accessible_modes_are_rejected() {
        let (parent, path) = folder();
        let dir = StateDir::open(&path).expect("opens");
        dir.save(&state()).expect("saves");
        let file = path.join("node.json");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).expect("chmod");
        assert!(matches!(dir.load(), Err(StateError::Unsafe { .. })));
        let elsewhere = parent.path().join("elsewhere.json");
        fs::rename(&file, &elsewhere).expect("moves");
        symlink(&elsewhere, &file).expect("links");
        assert!(
            dir.load()
                .expect_err("is a link")
                .to_string()
                .contains("is a link")
        );
        drop(dir);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
        assert!(
            StateDir::open(&path)
                .expect_err("is open")
                .to_string()
                .contains("chmod 700")
        );
        let link = parent.path().join("link");
        symlink(&path, &link).expect("links");
        assert!(matches!(
            StateDir::open(&link),
            Err(StateError::Unsafe { .. })
        ));
    }

    #[test]
    fn a_damaged_file_is_reported_without_its_content() {
        let (_parent, path) = folder();
        let dir = StateDir::open(&path).expect("opens");
        dir.save(&state()).expect("saves");
        let file = path.join("node.json");
        let mut text = fs::read_to_string(&file).expect("reads");
        text = text.replacen("barn", "barn\",\"identity_kex\":\"", 1);
        fs::write(&file, text).expect("writes");
        let refused = dir.load().expect_err("is damaged").to_string();
        assert!(
            refused.contains("node.json") && !refused.contains("0707"),
            "{refused}"
        );
    }
}
