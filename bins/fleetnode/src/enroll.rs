//! `fleetnode enroll` and `fleetnode refresh`: the prompts around the library's steps. Start with [`enroll`].

use std::{
    io::{self, BufRead, IsTerminal, Write},
    path::Path,
    time::Duration,
};

use anyhow::Context;
use fleet_agent::{
    ConfigureOptions, EnrollError, EnrollOptions, KeyFetch, SecretText, SitePolicy, Stage,
    StateDir, StateFile,
};
use fleet_core::{Fingerprint, Secret, SecretKind, limits};
use fleet_discovery::SubnetChoice;
use zeroize::Zeroizing;

use crate::{
    cli::{ConfigureArgs, EnrollArgs},
    exit::Usage,
};

/// What a node does not do under an upstream server.
const LIMITS: &str = "Under an upstream server, this node finds and pairs devices; it does not serve telemetry or miner commands.";
/// Longest input line: the longest secret, plus room for whitespace.
const LINE: u64 = 520;
/// Length of an upstream server's enrollment code: 32 bytes in base64 without padding.
const UPSTREAM_CODE: usize = 43;

pub(crate) async fn enroll(state_dir: &Path, args: EnrollArgs) -> anyhow::Result<()> {
    let wait = wait(args.wait, io::stdin().is_terminal());
    let dir = StateDir::open(state_dir)?;
    let state = dir.load()?;
    let stage = state.as_ref().map_or(Stage::New, StateFile::stage);
    match (stage, state) {
        (Stage::Registered, Some(state)) => {
            print(&format!(
                "This node is already registered as {:?} at {}.",
                state.name, state.server_url
            ))?;
            print(&compare(state.fingerprint(), state.upstream_server))?;
        }
        (Stage::Enrolled, Some(state)) => {
            let (name, fleet_node_id) = (state.name, state.fleet_node_id.unwrap_or_default());
            return Err(EnrollError::AlreadyRegistered {
                name,
                fleet_node_id,
                path: state_dir.to_owned(),
            }
            .into());
        }
        (Stage::New | Stage::Registered | Stage::Enrolled, _) => register(&dir, args).await?,
    }
    finish(&dir, wait).await
}

/// How long to wait for the confirmation. A script that passes the key on standard input must not wait.
fn wait(given: Option<u64>, is_terminal: bool) -> Option<Duration> {
    let by_default = is_terminal.then_some(limits::KEY_FETCH_LIFE);
    given.map(Duration::from_secs).or(by_default)
}

pub(crate) async fn refresh(state_dir: &Path) -> anyhow::Result<()> {
    let dir = StateDir::open(state_dir)?;
    let state = dir
        .load()?
        .filter(|state| state.stage() != Stage::New)
        .ok_or(EnrollError::NotRegistered)?;
    if state.stage() == Stage::Registered {
        print(&compare(state.fingerprint(), state.upstream_server))?;
        return finish(&dir, wait(None, io::stdin().is_terminal())).await;
    }
    fleet_agent::refresh(&dir).await?;
    print("The server accepts this node.")
}

pub(crate) fn import(state_dir: &Path, path: &Path, name: Option<String>) -> anyhow::Result<()> {
    let dir = StateDir::open(state_dir)?;
    let registration = fleet_agent::import(&dir, path, name.unwrap_or_else(host_name))?;
    let is_upstream = dir.load()?.is_some_and(|state| state.upstream_server);
    let limits = if is_upstream {
        format!(" {LIMITS}")
    } else {
        String::new()
    };
    print(&format!(
        "Imported node {}, fingerprint {}.{limits}\nStop the upstream node, then start this one with `fleetnode run`.",
        registration.fleet_node_id, registration.fingerprint
    ))
}

pub(crate) async fn configure(state_dir: &Path, args: ConfigureArgs) -> anyhow::Result<()> {
    let dir = StateDir::open(state_dir)?;
    let options = ConfigureOptions {
        server_url: args.server_url,
        ca_file: args.ca,
        allow_insecure_transport: args.allow_insecure_transport,
    };
    fleet_agent::configure(&dir, options).await?;
    print("Saved. Start the node with `fleetnode run`.")
}

pub(crate) fn unenroll(state_dir: &Path, yes: bool) -> anyhow::Result<()> {
    let dir = StateDir::open(state_dir)?;
    let Some(state) = dir.load()? else {
        return print("This node is not enrolled.");
    };
    if !yes && !confirmed(&format!("Delete the keys of {:?}? [y/N] ", state.name))? {
        return print("Nothing was deleted.");
    }
    dir.clear()?;
    match state.fleet_node_id {
        Some(id) => print(&format!(
            "Deleted the keys of {:?}. Revoke node {id} at {}, for example with `fleetctl nodes revoke {id}`.",
            state.name, state.server_url
        )),
        None => print("Deleted the keys."),
    }
}

/// Asks a yes-or-no question on the terminal.
fn confirmed(question: &str) -> anyhow::Result<bool> {
    if !io::stdin().is_terminal() {
        return Err(Usage::new("standard input is not a terminal; pass --yes to confirm").into());
    }
    write!(io::stderr(), "{question}").context("cannot write to standard error")?;
    let mut answer = String::new();
    io::Read::take(io::stdin().lock(), LINE)
        .read_line(&mut answer)
        .context("cannot read from the terminal")?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

async fn register(dir: &StateDir, args: EnrollArgs) -> anyhow::Result<()> {
    let server_url = args
        .server_url
        .ok_or_else(|| Usage::new("missing --server-url, such as https://fleet.example"))?;
    if args.force {
        return Err(Usage::new("--force is not supported; run `fleetnode unenroll` first").into());
    }
    let code = secret("Enrollment code: ", None)?.ok_or_else(|| Usage::new("no enrollment code on standard input; create one in the web page or with `fleetctl nodes code`"))?;
    let upstream_server = is_upstream(code.expose(), args.upstream_server)?;
    if upstream_server && !args.upstream_server {
        print(
            "This is an enrollment code of an upstream server: enrolling as with --upstream-server.",
        )?;
    }
    let options = EnrollOptions {
        server_url,
        name: args.name.unwrap_or_else(host_name),
        ca_file: args.ca,
        upstream_server,
        allow_insecure_transport: args.allow_insecure_transport,
    };
    let name = options.name.clone();
    let registered = fleet_agent::register(dir, options, &code).await?;
    print(&format!(
        "Registered as {name:?} (id {}).",
        registered.fleet_node_id
    ))?;
    if upstream_server {
        print(LIMITS)?;
    }
    print(&compare(registered.fingerprint, upstream_server))
}

/// Whether the enrollment code is one of an upstream server. The shape decides; `flag` says what the administrator
/// expects. The checksum of our own codes is checked here, before anything is sent.
fn is_upstream(code: &str, flag: bool) -> Result<bool, Usage> {
    match (Secret::parse(SecretKind::EnrollmentCode, code), flag) {
        (Ok(_), false) => Ok(false),
        (Ok(_), true) => Err(Usage::new(
            "this is an enrollment code of `fleetd`, not of an upstream server; enroll without --upstream-server",
        )),
        (Err(_), true) => Ok(true),
        (Err(_), false) if has_upstream_shape(code) => Ok(true),
        (Err(error), false) => Err(Usage::new(format!(
            "{error}; if the server is an upstream one, enroll with --upstream-server"
        ))),
    }
}

fn has_upstream_shape(code: &str) -> bool {
    let is_digit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    // One of ours may be cut to this length.
    code.len() == UPSTREAM_CODE
        && code.bytes().all(is_digit)
        && !code.starts_with(SecretKind::EnrollmentCode.prefix())
}

/// Asks for the API key until an operator has confirmed the node. Returns whether the node is enrolled.
async fn fetch(dir: &StateDir, most: Duration) -> anyhow::Result<bool> {
    let until = tokio::time::Instant::now() + most;
    print("Waiting for the confirmation. The node then fetches its API key itself.")?;
    let mut unreachable = false;
    let mut sequence = 0;
    loop {
        // The clock may be set back while the node waits.
        sequence = micros().max(sequence + 1);
        match fleet_agent::fetch_key(dir, sequence).await {
            Ok(KeyFetch::Enrolled) => {
                print("Confirmed. The API key was fetched.")?;
                return Ok(true);
            }
            Ok(KeyFetch::Pasted) => {
                print("Confirmed. The operator received the API key.")?;
                return Ok(false);
            }
            Ok(KeyFetch::Unsupported) => return Ok(false),
            Ok(KeyFetch::AwaitingConfirmation) => unreachable = false,
            // The server may restart while the operator compares the fingerprint.
            Err(EnrollError::NotFetched(error)) => {
                if !std::mem::replace(&mut unreachable, true) {
                    writeln!(io::stderr(), "{error}; retrying")?;
                }
            }
            Err(error) => return Err(error.into()),
        }
        if tokio::time::Instant::now() + limits::KEY_FETCH_EVERY > until {
            print(
                "Saved. The node was not confirmed in time: run `fleetnode enroll` again to wait on.",
            )?;
            return Err(EnrollError::NotConfirmed.into());
        }
        tokio::time::sleep(limits::KEY_FETCH_EVERY).await;
    }
}

/// The time in microseconds.
fn micros() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    now.map_or(0, |since| {
        i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
    })
}

async fn finish(dir: &StateDir, wait: Option<Duration>) -> anyhow::Result<()> {
    let is_upstream = dir.load()?.is_some_and(|state| state.upstream_server);
    if let Some(most) = wait.filter(|_| !is_upstream)
        && fetch(dir, most).await?
    {
        return print(&next_steps(&SitePolicy::default().choose_subnets(None)));
    }
    let upstream_server = dir.load()?.is_some_and(|state| state.upstream_server);
    let kind = (!upstream_server).then_some(SecretKind::NodeKey);
    let Some(api_key) = secret("API key: ", kind)? else {
        return print(
            "Saved. After an operator has confirmed the node, run `fleetnode enroll` again to enter the API key.",
        );
    };
    fleet_agent::finish(dir, api_key).await?;
    let subnets = SitePolicy::default().choose_subnets(None);
    print(&next_steps(&subnets))
}

/// How to start the node, with a limit to its own networks to copy. Without a limit, the server can have it scan every
/// private network that this machine reaches.
fn next_steps(subnets: &[SubnetChoice]) -> String {
    let own: Vec<_> = subnets
        .iter()
        .filter(|choice| choice.is_chosen)
        .map(|choice| format!("--allow-network {}", choice.subnet))
        .collect();
    let start = "Enrolled. Start the node with `fleetnode run`.";
    if own.is_empty() {
        return format!(
            "{start}\nTo limit what the server can scan through it, add --allow-network NETWORK for each network."
        );
    }
    format!(
        "{start}\nTo limit what the server can scan through it to this machine's own networks:\n  fleetnode run {}",
        own.join(" ")
    )
}

/// States the fingerprint and where the operator sees the server's one.
fn compare(fingerprint: Fingerprint, upstream_server: bool) -> String {
    let list = if upstream_server {
        "in the server's list of nodes"
    } else {
        "in the web page or in `fleetctl nodes list`"
    };
    format!(
        "Fingerprint: {fingerprint}\nCompare it with the fingerprint {list}, then confirm the node there."
    )
}

fn print(text: &str) -> anyhow::Result<()> {
    writeln!(io::stdout(), "{text}").context("cannot write to standard output")
}

/// Reads a secret: from a prompt without echo on a terminal, else from the next line of standard input. Returns none at the
/// end of the input. If `kind` is given, the checksum is checked here, before anything is sent.
fn secret(prompt: &str, kind: Option<SecretKind>) -> anyhow::Result<Option<SecretText>> {
    let mut line = Zeroizing::new(String::new());
    if io::stdin().is_terminal() {
        line = Zeroizing::new(
            rpassword::prompt_password(prompt).context("cannot read from the terminal")?,
        );
    } else {
        io::Read::take(io::stdin().lock(), LINE)
            .read_line(&mut line)
            .context("cannot read standard input")?;
    }
    let text = line.trim();
    if text.is_empty() {
        return Ok(None);
    }
    if let Some(kind) = kind {
        Secret::parse(kind, text).map_err(|error| Usage::new(error.to_string()))?;
    }
    Ok(Some(SecretText::new(text.to_owned())))
}

fn host_name() -> String {
    let name = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    if name.is_empty() {
        "fleetnode".to_owned()
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_shows_which_kind_of_server_issued_it() {
        let ours = Secret::new(SecretKind::EnrollmentCode, &[7; 32]);
        let ours = ours.expose();
        let theirs = "Zx3-_0123456789abcdefghijklmnopqrstuvwxyzAB";
        assert!(!is_upstream(ours, false).expect("ours"));
        assert!(is_upstream(theirs, false).expect("theirs"));
        assert!(is_upstream(theirs, true).expect("theirs"));
        assert!(is_upstream("of-a-later-version", true).expect("as the flag states"));
        let last = if ours.ends_with('x') { 'y' } else { 'x' };
        let changed = format!("{}{last}", &ours[..ours.len() - 1]);
        for (code, flag, named) in [
            (ours, true, "enroll without --upstream-server"),
            (&changed, false, "checksum"),
            (&ours[..43], false, "49 letters and digits"),
            (&theirs[1..], false, "enroll with --upstream-server"),
        ] {
            let refused = is_upstream(code, flag).expect_err(named).to_string();
            assert!(
                refused.contains(named) && !refused.contains(code),
                "{refused}"
            );
        }
    }

    #[test]
    fn the_fingerprint_is_compared_where_the_server_shows_it() {
        for (upstream_server, named) in [
            (false, "`fleetctl nodes list`"),
            (true, "the server's list"),
        ] {
            let text = compare(Fingerprint::of(&[0; 32]), upstream_server);
            assert!(text.contains("66687aadf862bd77"), "{text}");
            assert!(text.contains(named), "{text}");
            assert_eq!(text.contains("fleetctl"), !upstream_server, "{text}");
        }
    }

    #[test]
    fn the_next_step_limits_the_node_to_its_own_networks() {
        let choice = |subnet: &str, is_chosen| SubnetChoice {
            subnet: subnet.parse().expect("a network"),
            interface: "eth0".to_owned(),
            is_chosen,
            reason: String::new(),
        };
        let shown = next_steps(&[
            choice("10.20.0.0/24", true),
            choice("172.17.0.0/16", false),
            choice("10.30.0.0/22", true),
        ]);
        let command = "  fleetnode run --allow-network 10.20.0.0/24 --allow-network 10.30.0.0/22";
        assert_eq!(shown.lines().last(), Some(command));
        let shown = next_steps(&[choice("172.17.0.0/16", false)]);
        assert!(
            shown.ends_with("--allow-network NETWORK for each network."),
            "{shown}"
        );
    }
}
