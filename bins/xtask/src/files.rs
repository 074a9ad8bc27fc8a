//! The files of the workspace, without what is generated.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result};

/// Folders that hold nothing written by people of this project.
const GENERATED: [&str; 4] = ["target", "corpus", "artifacts", "__pycache__"];

/// Returns every file below `root`, sorted; hidden folders but `.github` are left out.
pub(crate) fn all(root: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    Ok(files)
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("reading {}", folder.display()))?
    {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let hidden = name.starts_with('.') && name != ".github";
        if entry.file_type()?.is_dir() {
            if !hidden && !GENERATED.contains(&name.as_ref()) {
                collect(&entry.path(), files)?;
            }
        } else {
            files.push(entry.path());
        }
    }
    Ok(())
}
