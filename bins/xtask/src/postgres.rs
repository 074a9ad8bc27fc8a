//! A temporary PostgreSQL cluster for the tests, with its own directory and a free loopback port. The system's own
//! cluster is never touched. Read [`Cluster::start`] first.

use std::{
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::{DirBuilderExt, chown},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    apt,
    proc::{self, OnExit},
};

/// The variable with the server's URL. Each test creates and drops its own database there.
pub(crate) const ENV: &str = "FLEET_TEST_POSTGRES";

/// Directory names are this prefix and the id of the process that created them.
const FOLDER_PREFIX: &str = "fleet-postgres-";

/// Attempts with another free port: another program may bind a port between finding and using it.
const PORT_ATTEMPTS: u32 = 5;

/// Settings of a temporary server: no durability, and enough connections for parallel tests.
const SETTINGS: [&str; 7] = [
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_connections=200",
    "listen_addresses=127.0.0.1",
    "autovacuum_naptime=10min",
    "log_min_messages=fatal",
];

/// A running temporary cluster. It is stopped and removed when it is dropped or when xtask ends in any way.
#[derive(Debug)]
pub(crate) struct Cluster {
    url: String,
    _removal: OnExit,
}

impl Cluster {
    /// Starts a cluster. Installs Debian's package first if it is missing and installing is permitted.
    ///
    /// # Errors
    /// If there can be none. The text completes "skipped:".
    pub(crate) fn start() -> Result<Self> {
        let tools = match Tools::find() {
            Some(tools) => tools,
            None => {
                apt::install(&["postgresql"])?;
                Tools::find().context("the postgresql package contains no initdb")?
            }
        };
        let account = Account::choose()?;
        remove_abandoned(&tools, &account);
        let folder = make_folder(&account)?;
        let (data, log) = (folder.join("data"), folder.join("log"));
        let removal = OnExit::run(
            r#"folder=$1; shift; "$@"; rm -rf "$folder""#,
            &[
                vec![folder.clone().into_os_string()],
                tools.stop_command(&account, &data),
            ]
            .concat(),
        )?;
        proc::capture(
            account
                .run(&tools.initdb)
                .args([
                    "--auth=trust",
                    "--username=fleet",
                    "--encoding=UTF8",
                    "--locale=C",
                    "--no-sync",
                    "--pgdata",
                ])
                .arg(&data),
        )?;
        let mut refused = None;
        for _ in 0..PORT_ATTEMPTS {
            let port = free_port()?;
            let mut options = format!("-p {port} -k {}", folder.display());
            SETTINGS
                .iter()
                .for_each(|setting| options.extend([" -c ", setting]));
            let mut start = account.run(&tools.pg_ctl);
            start
                .args(["start", "-w", "-t", "60", "-s", "-o", &options, "-l"])
                .arg(&log)
                .arg("-D")
                .arg(&data);
            match proc::capture(&mut start) {
                Ok(_) => {
                    return Ok(Self {
                        url: url(port),
                        _removal: removal,
                    });
                }
                Err(error) => refused = Some(error),
            }
        }
        let last_line = std::fs::read(&log)
            .ok()
            .and_then(|text| proc::last_line(&text));
        Err(refused
            .context("no attempt was made")?
            .context(last_line.unwrap_or_else(|| "PostgreSQL does not start".into())))
    }

    /// Returns the connection URL of the administrative database.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }
}

/// The two programs of one PostgreSQL installation.
#[derive(Debug)]
struct Tools {
    initdb: PathBuf,
    pg_ctl: PathBuf,
}

impl Tools {
    /// Searches Debian's directories (newest version first), then PATH.
    fn find() -> Option<Self> {
        let versions = std::fs::read_dir("/usr/lib/postgresql")
            .into_iter()
            .flatten()
            .flatten();
        let mut folders: Vec<PathBuf> = versions.map(|entry| entry.path().join("bin")).collect();
        folders.sort_by_key(|folder| std::cmp::Reverse(major_version(folder)));
        folders.extend(proc::which("initdb").and_then(|path| Some(path.parent()?.to_owned())));
        folders
            .into_iter()
            .map(|folder| Self {
                initdb: folder.join("initdb"),
                pg_ctl: folder.join("pg_ctl"),
            })
            .find(|tools| tools.initdb.exists() && tools.pg_ctl.exists())
    }

    /// The command that stops the server in `data` at once, as arguments for a clean-up script.
    fn stop_command(&self, account: &Account, data: &Path) -> Vec<std::ffi::OsString> {
        let mut stop = account.run(&self.pg_ctl);
        // An orderly shutdown would write data that is deleted right after.
        stop.args(["stop", "-w", "-m", "immediate", "-D"]).arg(data);
        std::iter::once(stop.get_program())
            .chain(stop.get_args())
            .map(ToOwned::to_owned)
            .collect()
    }
}

/// The user who runs the server, because initdb refuses root.
#[derive(Debug)]
struct Account {
    /// User and group; none is the user of xtask.
    other: Option<(u32, u32)>,
}

impl Account {
    fn choose() -> Result<Self> {
        if !proc::is_root() {
            return Ok(Self { other: None });
        }
        if proc::which("setpriv").is_none() {
            bail!(
                "initdb refuses root, and setpriv (util-linux), which changes the user, is missing"
            );
        }
        let accounts = std::fs::read_to_string("/etc/passwd").context("reading /etc/passwd")?;
        let other = ["postgres", "nobody"]
            .iter()
            .find_map(|name| account_ids(&accounts, name));
        if other.is_none() {
            bail!("initdb refuses root, and there is neither a user `postgres` nor `nobody`");
        }
        Ok(Self { other })
    }

    fn run(&self, program: &Path) -> Command {
        let mut command = Command::new(if self.other.is_some() {
            Path::new("setpriv")
        } else {
            program
        });
        if let Some((user, group)) = self.other {
            command
                .args([
                    format!("--reuid={user}"),
                    format!("--regid={group}"),
                    "--clear-groups".into(),
                ])
                .arg(program);
        }
        // The other user may lack access to the current directory.
        command.current_dir("/");
        command
    }
}

fn account_ids(passwd: &str, name: &str) -> Option<(u32, u32)> {
    let line = passwd
        .lines()
        .find(|line| line.split(':').next() == Some(name))?;
    let mut numbers = line.split(':').skip(2);
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

fn major_version(folder: &Path) -> u32 {
    let name = folder
        .parent()
        .and_then(Path::file_name)
        .unwrap_or_default();
    name.to_string_lossy().parse().unwrap_or(0)
}

fn make_folder(account: &Account) -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("{FOLDER_PREFIX}{}", std::process::id()));
    std::fs::DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("creating {}", folder.display()))?;
    if let Some((user, group)) = account.other {
        chown(&folder, Some(user), Some(group))
            .with_context(|| format!("changing the owner of {}", folder.display()))?;
    }
    Ok(folder)
}

/// Removes the clusters of runs that ended without clean-up (power loss, out-of-memory kill).
fn remove_abandoned(tools: &Tools, account: &Account) {
    for entry in std::fs::read_dir(std::env::temp_dir())
        .into_iter()
        .flatten()
        .flatten()
    {
        let name = entry.file_name();
        // A directory with this process's own id is from an earlier process, because ours does not exist yet.
        let alive = |process: u32| {
            process != std::process::id() && Path::new("/proc").join(process.to_string()).exists()
        };
        if abandoned(&name.to_string_lossy(), alive) {
            let stop = tools.stop_command(account, &entry.path().join("data"));
            // This fails harmlessly if the server has stopped or belongs to another user.
            let _ = proc::capture(Command::new(&stop[0]).args(&stop[1..]).current_dir("/"));
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
}

fn abandoned(folder: &str, alive: impl Fn(u32) -> bool) -> bool {
    let process = folder
        .strip_prefix(FOLDER_PREFIX)
        .and_then(|number| number.parse().ok());
    process.is_some_and(|process| !alive(process))
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?
        .local_addr()?
        .port())
}

fn url(port: u16) -> String {
    format!("postgres://fleet@127.0.0.1:{port}/postgres")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_parsed_from_the_line_of_exactly_that_account() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres2:x:7:8::/:/bin/sh\npostgres:x:101:104::/:/bin/sh\n";
        assert_eq!(account_ids(passwd, "postgres"), Some((101, 104)));
        assert_eq!(account_ids(passwd, "nobody"), None);
        assert_eq!(account_ids("postgres:x:broken", "postgres"), None);
    }

    #[test]
    fn only_folders_of_dead_processes_count_as_abandoned() {
        let alive = |process| process == 7;
        assert!(abandoned("fleet-postgres-8", alive));
        assert!(!abandoned("fleet-postgres-7", alive));
        assert!(!abandoned("fleet-postgres-8-notes", alive));
        assert!(!abandoned("something-8", alive));
    }

    #[test]
    fn newer_servers_come_before_older_ones() {
        assert!(
            major_version(Path::new("/usr/lib/postgresql/15/bin"))
                > major_version(Path::new("/usr/lib/postgresql/9/bin"))
        );
        assert_eq!(major_version(Path::new("/usr/local/bin")), 0);
    }
}
