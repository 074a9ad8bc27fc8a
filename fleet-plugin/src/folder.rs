//! Finds the plugins of a folder and checks that they are safe to run: a user who can write to a plugin, or to a folder
//! above it, could make the node run anything. Start with [`read`]. The rule is [`check`], without IO.

use std::{
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Component, Path, PathBuf},
};

use rustix::{fs::Access, process::geteuid};

use crate::lines::escaped;

/// Most plugins of a node.
const MOST: usize = 64;
/// Longest displayed name of a plugin, in characters.
const NAME: usize = 64;

/// Bits of a file mode: writable by the group or others, executable by anybody, sticky, set-user-id or set-group-id.
const WRITABLE: u32 = 0o022;
const EXECUTABLE: u32 = 0o111;
const STICKY: u32 = 0o1000;
const SET_ID: u32 = 0o6000;

/// Why a folder is not used.
#[derive(Debug, thiserror::Error)]
pub enum FolderError {
    /// The folder does not exist.
    #[error("the folder {} does not exist", .0.display())]
    Missing(PathBuf),
    /// A folder cannot be read.
    #[error("{} cannot be read", path.display())]
    Io {
        /// The folder, or one above it.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// Other users could replace the plugins.
    #[error("{} {problem}", path.display())]
    Unsafe {
        /// The folder, or one above it.
        path: PathBuf,
        /// The problem and its remedy.
        problem: String,
    },
}

/// A file that looks like a plugin but must not run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Skipped {
    /// The file.
    pub path: PathBuf,
    /// The problem and its remedy.
    pub problem: String,
}

/// A plugin that is safe to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct File {
    /// Its file name, escaped.
    pub(crate) name: String,
    pub(crate) path: PathBuf,
}

/// The plugins of a folder, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Listing {
    pub(crate) files: Vec<File>,
    pub(crate) skipped: Vec<Skipped>,
}

/// Reads a folder, after checking it and every folder above it.
///
/// # Errors
///
/// [`FolderError`]: nothing in the folder may be run.
pub(crate) fn read(folder: &Path) -> Result<Listing, FolderError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        |source| FolderError::Io { path, source }
    };
    // Not `canonicalize`, which would follow the links that are rejected below.
    let folder = std::path::absolute(folder).map_err(io(folder))?;
    check_folders(&folder)?;
    let mut paths = fs::read_dir(&folder)
        .and_then(|entries| {
            entries
                .map(|entry| entry.map(|entry| entry.path()))
                .collect::<io::Result<Vec<_>>>()
        })
        .map_err(io(&folder))?;
    // The order decides which files are plugins if there are too many.
    paths.sort();
    let mut listing = Listing::default();
    for path in paths {
        let problem = match inspect(&path) {
            Ok(None) => continue,
            Ok(Some(())) => {
                let name = path.file_name().unwrap_or_default();
                let name = escaped(name.as_encoded_bytes(), NAME);
                if listing.files.len() >= MOST {
                    format!("is one too many: a node runs at most {MOST} plugins")
                } else if listing.files.iter().any(|file| file.name == name) {
                    // Plugins are named by escaped names, which can be equal for two files.
                    "has a name that looks like another plugin's: rename it".to_owned()
                } else {
                    listing.files.push(File { name, path });
                    continue;
                }
            }
            Err(problem) => problem,
        };
        listing.skipped.push(Skipped { path, problem });
    }
    Ok(listing)
}

/// Checks a folder and every folder above it.
fn check_folders(folder: &Path) -> Result<(), FolderError> {
    let mut path = PathBuf::new();
    for component in folder.components() {
        path.push(component);
        if component == Component::ParentDir {
            return Err(FolderError::Unsafe {
                path: folder.to_owned(),
                problem: "has `..` in it: name the folder by its real path".to_owned(),
            });
        }
        let seen = match fs::symlink_metadata(&path) {
            Ok(meta) => FileInfo::of(&meta),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(FolderError::Missing(folder.to_owned()));
            }
            Err(source) => return Err(FolderError::Io { path, source }),
        };
        if seen.kind == Kind::File || seen.kind == Kind::Other {
            let problem = "is not a folder".to_owned();
            return Err(FolderError::Unsafe { path, problem });
        }
        if let Err(problem) = check(seen, geteuid().as_raw()) {
            return Err(FolderError::Unsafe { path, problem });
        }
    }
    Ok(())
}

/// Checks one file: `None` if it does not look like a plugin, an error if it does but is unsafe.
fn inspect(path: &Path) -> Result<Option<()>, String> {
    let meta = fs::symlink_metadata(path).map_err(|error| format!("cannot be read: {error}"))?;
    let seen = FileInfo::of(&meta);
    let looks_like_one = match seen.kind {
        Kind::File => seen.mode & EXECUTABLE != 0,
        Kind::Link => true,
        Kind::Folder | Kind::Other => false,
    };
    if !looks_like_one {
        return Ok(None);
    }
    check(seen, geteuid().as_raw())?;
    // The mode shows neither ACLs nor a mount without execution.
    rustix::fs::access(path, Access::EXEC_OK)
        .map_err(|_| "cannot be executed by this user: run `chmod 755` on it".to_owned())?;
    Ok(Some(()))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Folder,
    File,
    Link,
    Other,
}

/// The properties that decide whether a file or folder is safe.
#[derive(Clone, Copy, Debug)]
struct FileInfo {
    kind: Kind,
    owner: u32,
    mode: u32,
}

impl FileInfo {
    fn of(meta: &fs::Metadata) -> Self {
        let kind = meta.file_type();
        Self {
            kind: if kind.is_symlink() {
                Kind::Link
            } else if kind.is_dir() {
                Kind::Folder
            } else if kind.is_file() {
                Kind::File
            } else {
                Kind::Other
            },
            owner: meta.uid(),
            mode: meta.mode(),
        }
    }
}

/// Checks that only root and the user `me` control a file or folder.
fn check(seen: FileInfo, me: u32) -> Result<(), String> {
    let FileInfo { kind, owner, mode } = seen;
    if kind == Kind::Link {
        return Err(
            "is a symbolic link: put the program itself there, or name the real path".into(),
        );
    }
    if owner != 0 && owner != me {
        return Err(format!(
            "belongs to user {owner}: only root and user {me} are trusted, so `chown` it to one of them"
        ));
    }
    // In a sticky folder, others cannot replace a file that they do not own.
    let is_sticky = kind == Kind::Folder && mode & STICKY != 0;
    if mode & WRITABLE != 0 && !is_sticky {
        return Err(format!(
            "can be written by others (mode {:03o}): run `chmod go-w` on it",
            mode & 0o777
        ));
    }
    if kind == Kind::File && mode & SET_ID != 0 {
        return Err(
            "runs as another user (set-id): a plugin runs as the node, so `chmod u-s,g-s` it"
                .into(),
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn only_files_controlled_by_root_or_the_node_may_run() {
        use Kind::{File, Folder, Link};
        const ME: u32 = 1_000;
        for (kind, owner, mode, named) in [
            (File, ME, 0o755, ""),
            (File, 0, 0o755, ""),
            (File, ME, 0o700, ""),
            (File, 1_001, 0o755, "user 1001"),
            (File, ME, 0o775, "775"),
            (File, ME, 0o757, "757"),
            (File, ME, 0o1777, "777"),
            (File, ME, 0o4755, "set-id"),
            (File, ME, 0o2755, "set-id"),
            (Folder, ME, 0o755, ""),
            (Folder, 0, 0o1777, ""),
            (Folder, ME, 0o777, "777"),
            (Folder, ME, 0o770, "770"),
            (Folder, ME, 0o2755, ""),
            (Folder, 1_001, 0o755, "user 1001"),
            (Link, ME, 0o777, "symbolic link"),
        ] {
            let judged = check(FileInfo { kind, owner, mode }, ME);
            match named {
                "" => assert_eq!(judged, Ok(()), "{kind:?} {owner} {mode:o}"),
                named => assert!(
                    judged.as_ref().is_err_and(|why| why.contains(named)),
                    "{kind:?} {owner} {mode:o}: {judged:?}"
                ),
            }
        }
    }

    fn put(folder: &Path, name: &str, mode: u32) {
        let path = folder.join(name);
        fs::write(&path, "#!/bin/sh\n").expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("chmod");
    }

    fn folder() -> tempfile::TempDir {
        let folder = tempfile::tempdir().expect("a temporary folder");
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("chmod");
        folder
    }

    #[test]
    fn one_bad_file_does_not_stop_the_others() {
        let folder = folder();
        put(folder.path(), "b-good", 0o755);
        put(folder.path(), "a-good", 0o700);
        put(folder.path(), "open", 0o777);
        put(folder.path(), "README", 0o644);
        symlink("a-good", folder.path().join("link")).expect("links");
        fs::create_dir(folder.path().join("folder")).expect("a folder");
        let listing = read(folder.path()).expect("is safe");
        let names: Vec<_> = listing.files.iter().map(|file| &*file.name).collect();
        assert_eq!(names, ["a-good", "b-good"]);
        let skipped: Vec<_> = listing
            .skipped
            .iter()
            .map(|skipped| (skipped.path.file_name(), &*skipped.problem))
            .collect();
        assert_eq!(skipped.len(), 2, "{skipped:?}");
        assert!(skipped[0].1.contains("symbolic link"), "{skipped:?}");
        assert!(skipped[1].1.contains("chmod go-w"), "{skipped:?}");
    }

    #[test]
    fn a_folder_that_others_can_change_is_refused_wherever_it_is_open() {
        let outer = folder();
        let inner = outer.path().join("plugins");
        fs::create_dir(&inner).expect("a folder");
        put(&inner, "good", 0o755);
        assert_eq!(read(&inner).expect("is safe").files.len(), 1);
        for open in [&inner, &outer.path().to_owned()] {
            fs::set_permissions(open, fs::Permissions::from_mode(0o777)).expect("chmod");
            let refused = read(&inner).expect_err("is open").to_string();
            assert!(refused.starts_with(&*open.to_string_lossy()), "{refused}");
            fs::set_permissions(open, fs::Permissions::from_mode(0o755)).expect("chmod");
        }
        let link = outer.path().join("link");
        symlink(&inner, &link).expect("links");
        assert!(matches!(read(&link), Err(FolderError::Unsafe { .. })));
        assert!(matches!(
            read(&inner.join("..").join("plugins")),
            Err(FolderError::Unsafe { .. })
        ));
        assert!(matches!(
            read(&inner.join("good")),
            Err(FolderError::Unsafe { .. })
        ));
        assert!(matches!(
            read(&outer.path().join("none")),
            Err(FolderError::Missing(_))
        ));
    }
}
