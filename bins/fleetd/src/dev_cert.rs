//! `fleetd dev-cert`: a self-signed certificate for development.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::{Context, Result};
use fleet_wire::listener::dev_certificate;

use crate::cli::DevCertArgs;

pub(crate) fn run(args: &DevCertArgs) -> Result<()> {
    let certificate = dev_certificate(&args.names)?;
    write_new(&args.key, 0o600, &certificate.key_pem)?;
    write_new(&args.cert, 0o644, &certificate.cert_pem)?;
    writeln!(
        std::io::stderr(),
        "wrote {} and {} for {}: use them with `fleetd serve --tls-cert --tls-key`; nodes and fleetctl need --ca {}",
        args.cert.display(),
        args.key.display(),
        args.names.join(", "),
        args.cert.display()
    )?;
    Ok(())
}

/// Creates a file. It never overwrites one, because an existing key may be in use and have no copy.
fn write_new(path: &Path, mode: u32, text: &str) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = file.with_context(|| {
        format!(
            "cannot create {}: remove it first, or use another file",
            path.display()
        )
    })?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
