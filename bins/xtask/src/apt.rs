//! Installs Debian packages: only as root, with apt-get, and unless the user declined.

use std::{path::Path, process::Command};

use anyhow::{Result, bail};

use crate::proc::{self, OnExit};

/// If set to anything, xtask installs no packages.
const DECLINED: &str = "FLEET_NO_INSTALL";

/// Debian's hook: package scripts run it before they start a service.
const SERVICE_POLICY: &str = "/usr/sbin/policy-rc.d";

/// Installs Debian packages without starting their services.
///
/// # Errors
/// If installing is not permitted or fails. The text completes "skipped:".
pub(crate) fn install(packages: &[&str]) -> Result<()> {
    let wanted = packages.join(", ");
    if std::env::var_os(DECLINED).is_some() {
        bail!("{wanted} not installed, and {DECLINED} is set");
    }
    if !proc::is_root() {
        bail!("{wanted} not installed, and installing needs root");
    }
    let Some(apt) = proc::which("apt-get") else {
        bail!("{wanted} not installed, and there is no apt-get");
    };
    println!("installing {wanted} (set {DECLINED}=1 to decline)");
    let _policy = keep_services_down()?;
    let apt_get = |arguments: &[&str]| {
        let mut command = Command::new(&apt);
        command
            .env("DEBIAN_FRONTEND", "noninteractive")
            .args(["-q", "-y"])
            .args(arguments);
        proc::capture(&mut command)
    };
    let install = [&["install", "--no-install-recommends"], packages].concat();
    if apt_get(&install).is_ok() {
        return Ok(());
    }
    // Images ship without package lists, or with stale ones.
    apt_get(&["update"])?;
    apt_get(&install)?;
    Ok(())
}

/// Keeps package scripts from starting services until the value is dropped. An existing policy stays.
fn keep_services_down() -> Result<Option<OnExit>> {
    if Path::new(SERVICE_POLICY).exists() {
        return Ok(None);
    }
    let remove = OnExit::run(r#"rm -f "$1""#, &[SERVICE_POLICY])?;
    let script = r#"printf '#!/bin/sh\nexit 101\n' > "$1" && chmod 755 "$1""#;
    proc::capture(Command::new("sh").args(["-c", script, "policy", SERVICE_POLICY]))?;
    Ok(Some(remove))
}
