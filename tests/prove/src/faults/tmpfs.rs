//! A small in-memory file system that can be filled completely and freed again.

use std::{
    fs::{File, OpenOptions},
    io::{ErrorKind, Write},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, ensure};
use tempfile::TempDir;

/// A mounted tmpfs. Dropping it unmounts and removes it.
#[derive(Debug)]
pub(super) struct Tmpfs {
    folder: TempDir,
}

impl Tmpfs {
    /// Mounts `size` bytes in a new folder.
    ///
    /// # Errors
    ///
    /// If the process lacks the permission to mount (CAP_SYS_ADMIN).
    pub(super) fn mount(size: u64) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size},mode=0700"),
                "tmpfs",
            ])
            .arg(folder.path())
            .output()
            .context("running mount")?;
        ensure!(
            mounted.status.success(),
            "mounting a tmpfs needs root: {}",
            String::from_utf8_lossy(&mounted.stderr).trim()
        );
        Ok(Self { folder })
    }

    /// The mount point.
    pub(super) fn path(&self) -> &Path {
        self.folder.path()
    }

    /// Fills the file system to the last byte.
    pub(super) fn fill(&self) -> Result<()> {
        let mut file = OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.filler())?;
        for block in [64 << 10, 4 << 10, 1] {
            while write_all_or_full(&mut file, &vec![0; block])? {}
        }
        Ok(())
    }

    /// Frees the filled space.
    pub(super) fn free(&self) -> Result<()> {
        match std::fs::remove_file(self.filler()) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    fn filler(&self) -> PathBuf {
        self.path().join("filler")
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        // Unmount lazily, because a stopping server may still have an open file.
        let _ = Command::new("umount").arg("-l").arg(self.path()).status();
    }
}

/// Writes the block. Returns whether it fit.
fn write_all_or_full(file: &mut File, block: &[u8]) -> Result<bool> {
    match file.write_all(block) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::StorageFull => Ok(false),
        Err(error) => Err(error).context("filling the tmpfs"),
    }
}
