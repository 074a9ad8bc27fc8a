//! Embeds every rule file of `fingerprints/`, so that a new make needs no change in Rust.

use std::{env, fs, io, path::Path};

fn main() -> io::Result<()> {
    let variable = |name| env::var(name).map_err(|_| io::Error::other("cargo sets the variable"));
    let folder = Path::new(&variable("CARGO_MANIFEST_DIR")?).join("fingerprints");
    println!("cargo::rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    for entry in fs::read_dir(&folder)? {
        let path = entry?.path();
        if path
            .extension()
            .is_some_and(|extension| extension == "toml")
        {
            files.push(path);
        }
    }
    files.sort();
    let mut code = "&[\n".to_owned();
    for path in &files {
        println!("cargo::rerun-if-changed={}", path.display());
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        code.push_str(&format!("({name:?}, include_str!({path:?})),\n"));
    }
    code.push(']');
    fs::write(
        Path::new(&variable("OUT_DIR")?).join("fingerprints.rs"),
        code,
    )
}
