//! `fleetd dev-cert`: a self-signed certificate for development.

use std::{fs::OpenOptions, io::Write, os::unix::fs::OpenOptionsExt, path::Path};

use anyhow::{Context, Result};
use fleet_wire::listener::dev_certificate;

use crate::cli::DevCertArgs;

pub(crate) fn run(args: &DevCertArgs) -> Result<()> {
    let made = dev_certificate(&args.names)?;
    write_new(&args.key, 0o600, &made.key_pem)?;
    write_new(&args.cert, 0o644, &made.cert_pem)?;
    writeln!(
        std::io::stderr(),
        "wrote {} and {} for {}: serve with --tls-cert and --tls-key; nodes and fleetctl trust it with --ca {}",
        args.cert.display(),
        args.key.display(),
        args.names.join(", "),
        args.cert.display()
    )?;
    Ok(())
}

/// Never overwrites: a key that is in use may be the only one.
fn write_new(path: &Path, mode: u32, text: &str) -> Result<()> {
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path);
    let mut file = file.with_context(|| {
        format!(
            "cannot create {}: remove it first, or name another file",
            path.display()
        )
    })?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write {}", path.display()))
}
