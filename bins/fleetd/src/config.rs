//! Combines flags, variables and the configuration file into typed settings. An error names the key and exits
//! with 64. Read [`Serve`] first.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    path::{Path, PathBuf},
};

use fleet_core::{AddressPolicy, classify};
use fleet_server::{Rates, Smtp};
use fleet_wire::client::Roots;
use ipnetwork::IpNetwork;
use serde::Deserialize;

use crate::{
    authorities,
    cli::{DatabaseArgs, LogArgs, LogFormat, ServeArgs},
    oidc::{self, OidcFile, SignIn, Switch},
    smtp::SmtpFile,
};

/// Default listening address of `serve`: this machine only.
const LISTEN: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 8_420);
/// Default database: a file in the working directory, which needs no setup.
const DATABASE_URL: &str = "sqlite://fleet.db?mode=rwc";
/// Name of the configuration file that is read from the working directory if it exists.
const FILE: &str = "fleetd.toml";

/// An invalid flag, variable or key of the file.
#[derive(Debug)]
pub(crate) struct ConfigError(String);

impl ConfigError {
    pub(crate) fn new(text: String) -> Self {
        Self(text)
    }
}

impl std::fmt::Display for ConfigError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ConfigError {}

/// The configuration file before interpretation.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct File {
    database_url: Option<String>,
    log_format: Option<LogFormat>,
    log: Option<String>,
    listen: Option<SocketAddr>,
    tls_cert: Option<PathBuf>,
    tls_key: Option<PathBuf>,
    allow_insecure_transport: Option<bool>,
    public_url: Option<String>,
    trusted_proxy: Vec<IpNetwork>,
    migrate: Option<bool>,
    allow_carrier_shared: Option<bool>,
    allow_unpinned_names: Option<bool>,
    metrics_listen: Option<MetricsListen>,
    rates: RatesFile,
    direct: DirectFile,
    retention: RetentionFile,
    smtp: Option<SmtpFile>,
    oidc: OidcFile,
    password_sign_in: Option<Switch>,
    webhooks: WebhooksFile,
}

/// How messages are sent to webhooks.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct WebhooksFile {
    /// A PEM file with authorities besides those of the operating system.
    ca_file: Option<PathBuf>,
}

/// How long data is kept.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RetentionFile {
    /// Days after the end of a scan; 0 keeps its events for ever.
    scan_events_days: Option<u32>,
    /// Days after the end of a scan; 0 keeps it with its results for ever.
    scan_results_days: Option<u32>,
    /// Whether the last result of the same targets is kept for longer.
    keep_last_results: Option<bool>,
}

/// Limits of calls per minute. 0 means unlimited; an absent key is the default of [`Rates`].
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct RatesFile {
    register: Option<u32>,
    handshakes: Option<u32>,
    key_fetches: Option<u32>,
    handshakes_of_a_key: Option<u32>,
    sign_ins: Option<u32>,
    passwords_of_an_account: Option<u32>,
    unknown_credentials: Option<u32>,
    calls_of_a_caller: Option<u32>,
}

impl RatesFile {
    fn interpret(&self) -> Rates {
        let or = |written: Option<u32>, default| {
            // The counter cannot exceed its maximum, which therefore means unlimited.
            written.map_or(default, |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MAX))
        };
        let default = Rates::default();
        Rates {
            register: or(self.register, default.register),
            handshakes: or(self.handshakes, default.handshakes),
            key_fetches: or(self.key_fetches, default.key_fetches),
            handshakes_of_a_key: or(self.handshakes_of_a_key, default.handshakes_of_a_key),
            sign_ins: or(self.sign_ins, default.sign_ins),
            passwords_of_an_account: or(
                self.passwords_of_an_account,
                default.passwords_of_an_account,
            ),
            unknown_credentials: or(self.unknown_credentials, default.unknown_credentials),
            calls_of_a_caller: or(self.calls_of_a_caller, default.calls_of_a_caller),
        }
    }
}

/// The table `direct`: scans by the server itself.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
struct DirectFile {
    enabled: Option<bool>,
    networks: Vec<IpNetwork>,
    organization: Option<String>,
}

/// Settings of a command that uses the database.
#[derive(Clone, Debug)]
pub(crate) struct Database {
    pub(crate) url: String,
    pub(crate) log: Log,
}

/// Settings of logging.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Log {
    pub(crate) format: LogFormat,
    pub(crate) filter: Option<String>,
}

/// Settings of `serve`.
#[derive(Clone, Debug)]
pub(crate) struct Serve {
    pub(crate) database: Database,
    pub(crate) listen: SocketAddr,
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) public_url: Option<String>,
    pub(crate) trusted_proxies: Vec<IpNetwork>,
    pub(crate) migrate: bool,
    pub(crate) carrier_shared: bool,
    pub(crate) unpinned_names: bool,
    pub(crate) rates: Rates,
    pub(crate) demo_loopback: bool,
    /// The only networks that the server itself dials; `None` if this is disabled.
    pub(crate) direct: Option<Vec<IpNetwork>>,
    /// The name of the organization that owns these networks.
    pub(crate) direct_organization: Option<String>,
    /// How many days the events of an ended scan are kept; 0 means for ever.
    pub(crate) scan_events_days: u32,
    /// How many days an ended scan is kept with its results; 0 means for ever.
    pub(crate) scan_results_days: u32,
    /// Whether the last result of the same targets is kept for longer.
    pub(crate) keep_last_results: bool,
    /// Where metrics are served; `None` if they are off.
    pub(crate) metrics: Option<SocketAddr>,
    /// How e-mail is sent; `None` if it is off.
    pub(crate) smtp: Option<Smtp>,
    /// How operators sign in.
    pub(crate) sign_in: SignIn,
    /// The authorities that sign the certificates of webhooks.
    pub(crate) webhook_roots: Roots,
}

/// A port, or an address with a port.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
enum MetricsListen {
    Port(u16),
    Text(String),
}

impl MetricsListen {
    fn interpret(self) -> Result<SocketAddr, ConfigError> {
        let text = match self {
            Self::Port(port) => port.to_string(),
            Self::Text(text) => text,
        };
        fleet_wire::metrics::address(&text)
            .map_err(|error| ConfigError(format!("metrics-listen: {error}")))
    }
}

/// Days for which the events of an ended scan are kept by default.
const EVENTS_KEPT_DAYS: u32 = 30;

/// Files of the TLS identity.
#[derive(Clone, Debug)]
pub(crate) struct TlsFiles {
    pub(crate) cert: PathBuf,
    pub(crate) key: PathBuf,
}

/// Interprets the flags of a database command.
pub(crate) fn database(args: DatabaseArgs) -> Result<Database, ConfigError> {
    let file = read(args.config.as_deref())?;
    Ok(interpret_database(args, &file))
}

/// Interprets the flags of `serve`.
pub(crate) fn serve(args: ServeArgs) -> Result<Serve, ConfigError> {
    let file = read(args.database.config.as_deref())?;
    let database = interpret_database(args.database, &file);
    let listen = args.listen.or(file.listen).unwrap_or(LISTEN);
    let tls = match (
        args.tls_cert.or(file.tls_cert),
        args.tls_key.or(file.tls_key),
    ) {
        (Some(cert), Some(key)) => Some(TlsFiles { cert, key }),
        (None, None) => None,
        (Some(cert), None) => {
            return Err(ConfigError(format!(
                "tls-cert is {} but tls-key is missing: set both",
                cert.display()
            )));
        }
        (None, Some(key)) => {
            return Err(ConfigError(format!(
                "tls-key is {} but tls-cert is missing: set both",
                key.display()
            )));
        }
    };
    let insecure = args
        .allow_insecure_transport
        .or(file.allow_insecure_transport)
        .unwrap_or(false);
    if tls.is_none() && !listen.ip().is_loopback() && !insecure {
        return Err(ConfigError(format!(
            "listen is {listen}, which other machines can reach, but TLS is off, so keys would be sent in clear text: set tls-cert and tls-key, or allow-insecure-transport behind a proxy that terminates TLS"
        )));
    }
    let public_url = args.public_url.or(file.public_url);
    if let Some(url) = &public_url
        && !(url.starts_with("https://") || url.starts_with("http://"))
    {
        return Err(ConfigError(format!(
            "public-url is `{url}`, which has no scheme: use a URL such as https://fleet.example.org"
        )));
    }
    if insecure && public_url.is_none() {
        return Err(ConfigError(
            "allow-insecure-transport is set but public-url is missing: set public-url to the address that browsers use, such as https://fleet.example.org, because the server cannot know whether a proxy adds TLS".to_owned(),
        ));
    }
    let trusted_proxies = if args.trusted_proxy.is_empty() {
        file.trusted_proxy
    } else {
        args.trusted_proxy
    };
    let carrier_shared = args
        .allow_carrier_shared
        .or(file.allow_carrier_shared)
        .unwrap_or(false);
    let addresses = AddressPolicy {
        carrier_shared,
        loopback: args.demo_allow_loopback,
    };
    let direct_networks = if args.direct_network.is_empty() {
        file.direct.networks
    } else {
        args.direct_network
    };
    let direct = args
        .direct_enabled
        .or(file.direct.enabled)
        .unwrap_or(false)
        .then(|| direct_networks_of(direct_networks, addresses))
        .transpose()?;
    let metrics = match args.metrics_listen {
        Some(address) => Some(address),
        None => file
            .metrics_listen
            .map(MetricsListen::interpret)
            .transpose()?,
    };
    let smtp = file
        .smtp
        .map(|smtp| smtp.interpret(std::env::var(crate::smtp::PASSWORD).ok()))
        .transpose()?;
    let sign_in = oidc::interpret(
        args.oidc,
        file.oidc,
        file.password_sign_in,
        public_url.as_deref(),
        std::env::var(oidc::SECRET).ok(),
    )?;
    let webhook_roots = match &file.webhooks.ca_file {
        Some(ca) => Roots::SystemAnd(authorities::read("webhooks.ca-file", ca)?),
        None => Roots::System,
    };
    Ok(Serve {
        database,
        listen,
        tls,
        public_url,
        trusted_proxies,
        migrate: args.migrate.or(file.migrate).unwrap_or(false),
        carrier_shared,
        unpinned_names: args
            .allow_unpinned_names
            .or(file.allow_unpinned_names)
            .unwrap_or(false),
        rates: file.rates.interpret(),
        demo_loopback: args.demo_allow_loopback,
        direct,
        direct_organization: file.direct.organization,
        scan_events_days: file.retention.scan_events_days.unwrap_or(EVENTS_KEPT_DAYS),
        scan_results_days: file.retention.scan_results_days.unwrap_or(0),
        keep_last_results: file.retention.keep_last_results.unwrap_or(true),
        metrics,
        smtp,
        sign_in,
        webhook_roots,
    })
}

/// Checks the networks that the server itself may dial: at least one, and every address of each is private.
fn direct_networks_of(
    networks: Vec<IpNetwork>,
    addresses: AddressPolicy,
) -> Result<Vec<IpNetwork>, ConfigError> {
    if networks.is_empty() {
        return Err(ConfigError(
            "direct.enabled is true but direct.networks is empty: list the networks that the server may dial, such as networks = [\"10.20.0.0/24\"]".to_owned(),
        ));
    }
    for network in &networks {
        let ends =
            [network.network(), network.broadcast()].map(|ip| (addresses.admit(ip), classify(ip)));
        let [(Ok(_), first), (Ok(_), last)] = ends else {
            return Err(not_private(network));
        };
        // Both ends can be private and in different ranges, with public addresses between them.
        if first != last {
            return Err(not_private(network));
        }
    }
    Ok(networks)
}

fn not_private(network: &IpNetwork) -> ConfigError {
    ConfigError(format!(
        "direct.networks contains {network}, which is not a private network: use networks within 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16 or fc00::/7"
    ))
}

/// Interprets the logging flags without a configuration file.
#[cfg(feature = "demo")]
pub(crate) fn log(args: LogArgs) -> Log {
    interpret_log(args, &File::default())
}

fn interpret_database(args: DatabaseArgs, file: &File) -> Database {
    let url = args
        .database_url
        .or_else(|| file.database_url.clone())
        .unwrap_or_else(|| DATABASE_URL.to_owned());
    Database {
        url,
        log: interpret_log(args.log, file),
    }
}

fn interpret_log(args: LogArgs, file: &File) -> Log {
    Log {
        format: args.log_format.or(file.log_format).unwrap_or_default(),
        filter: args.log.or_else(|| file.log.clone()),
    }
}

/// Reads the given configuration file, or the default one if it exists.
fn read(named: Option<&Path>) -> Result<File, ConfigError> {
    let path = named.unwrap_or_else(|| Path::new(FILE));
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if named.is_none() && error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(File::default());
        }
        Err(error) => {
            return Err(ConfigError(format!(
                "cannot read the configuration file {}: {error}",
                path.display()
            )));
        }
    };
    // The error of toml contains the line, the key and the accepted values.
    toml::from_str(&text).map_err(|error| {
        ConfigError(format!(
            "{}: {}",
            path.display(),
            error.to_string().trim_end()
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(listen: Option<&str>) -> ServeArgs {
        ServeArgs {
            listen: listen.map(|text| text.parse().expect("an address")),
            ..ServeArgs::default()
        }
    }

    fn with_file(text: &str) -> (tempfile::TempDir, ServeArgs) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("fleetd.toml");
        std::fs::write(&path, text).expect("writes");
        let database = DatabaseArgs {
            config: Some(path),
            ..DatabaseArgs::default()
        };
        (
            dir,
            ServeArgs {
                database,
                ..ServeArgs::default()
            },
        )
    }

    #[test]
    fn the_default_address_is_reachable_from_this_machine_only() {
        let settings = serve(args(None)).expect("is fine");
        assert_eq!(
            (settings.listen, settings.database.url.as_str()),
            (LISTEN, DATABASE_URL)
        );
    }

    #[test]
    fn an_address_that_other_machines_reach_needs_tls_or_explicit_permission() {
        let refused = serve(args(Some("0.0.0.0:8420")))
            .expect_err("is open")
            .to_string();
        assert!(
            refused.contains("0.0.0.0:8420") && refused.contains("tls-cert"),
            "{refused}"
        );
        let mut allowed = ServeArgs {
            allow_insecure_transport: Some(true),
            ..args(Some("0.0.0.0:8420"))
        };
        let refused = serve(allowed.clone()).expect_err("the public URL is missing");
        assert!(refused.to_string().contains("public-url"), "{refused}");
        allowed.public_url = Some("https://fleet.example.org".to_owned());
        assert!(serve(allowed).is_ok());
    }

    #[test]
    fn flags_override_the_file() {
        let (_dir, mut given) =
            with_file("listen = \"127.0.0.1:9000\"\ndatabase-url = \"sqlite://a.db\"\n");
        assert_eq!(serve(given.clone()).expect("is fine").listen.port(), 9_000);
        given.listen = Some("127.0.0.1:9001".parse().expect("an address"));
        let settings = serve(given).expect("is fine");
        assert_eq!(
            (settings.listen.port(), settings.database.url.as_str()),
            (9_001, "sqlite://a.db")
        );
    }

    #[test]
    fn rates_of_the_file_override_the_defaults_and_0_means_unlimited() {
        let (_dir, given) = with_file("[rates]\nregister = 0\nhandshakes-of-a-key = 7\n");
        let (settings, default) = (serve(given).expect("is fine").rates, Rates::default());
        assert_eq!(settings.register, NonZeroU32::MAX);
        assert_eq!(settings.handshakes_of_a_key.get(), 7);
        assert_eq!(settings.handshakes, default.handshakes);
    }

    #[test]
    fn events_of_scans_are_kept_for_30_days_unless_the_file_says_otherwise() {
        assert_eq!(serve(args(None)).expect("is fine").scan_events_days, 30);
        let (_dir, given) = with_file("[retention]\nscan-events-days = 7\n");
        assert_eq!(serve(given).expect("is fine").scan_events_days, 7);
    }

    #[test]
    fn scans_are_kept_for_ever_unless_the_file_says_otherwise() {
        let kept = |config: Serve| (config.scan_results_days, config.keep_last_results);
        assert_eq!(kept(serve(args(None)).expect("is fine")), (0, true));
        let (_dir, given) =
            with_file("[retention]\nscan-results-days = 90\nkeep-last-results = false\n");
        assert_eq!(kept(serve(given).expect("is fine")), (90, false));
    }

    #[test]
    fn the_server_dials_no_network_unless_it_is_enabled_and_listed() {
        assert_eq!(serve(args(None)).expect("is fine").direct, None);
        let (_dir, given) = with_file("[direct]\nnetworks = [\"10.20.0.0/24\"]\n");
        assert_eq!(
            serve(given).expect("is fine").direct,
            None,
            "off by default"
        );
        let (_dir, given) =
            with_file("[direct]\nenabled = true\nnetworks = [\"10.20.0.0/24\", \"fd00:1::/64\"]\n");
        let settings = serve(given).expect("is fine").direct.expect("on");
        assert_eq!(settings.len(), 2);
        for (networks, named) in [
            ("", "direct.networks is empty"),
            ("\"0.0.0.0/0\"", "0.0.0.0/0"),
            ("\"10.0.0.0/7\"", "/7"),
            ("\"8.8.8.0/24\"", "8.8.8.0/24"),
            ("\"127.0.0.0/8\"", "127.0.0.0/8"),
            ("\"169.254.0.0/16\"", "169.254.0.0/16"),
        ] {
            let (_dir, given) = with_file(&format!(
                "[direct]\nenabled = true\nnetworks = [{networks}]\n"
            ));
            let refused = serve(given).expect_err(networks).to_string();
            assert!(refused.contains(named), "{refused}");
        }
    }

    #[test]
    fn metrics_are_off_and_a_port_alone_is_on_loopback() {
        assert_eq!(serve(args(None)).expect("is fine").metrics, None);
        for (text, expected) in [
            ("metrics-listen = 9420\n", "127.0.0.1:9420"),
            ("metrics-listen = \"9420\"\n", "127.0.0.1:9420"),
            ("metrics-listen = \"10.0.0.5:9420\"\n", "10.0.0.5:9420"),
        ] {
            let (_dir, given) = with_file(text);
            let metrics = serve(given).expect("is fine").metrics;
            assert_eq!(metrics, expected.parse().ok(), "{text}");
        }
    }

    #[test]
    fn an_error_names_the_invalid_key_or_value() {
        for (text, named) in [
            ("lisen = 1\n", "lisen"),
            ("listen = \"nowhere\"\n", "listen"),
            ("tls-cert = \"c.pem\"\n", "tls-key"),
            ("public-url = \"fleet\"\n", "public-url"),
            ("metrics-listen = \"here\"\n", "metrics-listen"),
            ("[rates]\nregistrations = 1\n", "registrations"),
            (
                "[webhooks]\nca-file = \"/none\"\n",
                "webhooks.ca-file /none",
            ),
        ] {
            let (_dir, given) = with_file(text);
            let refused = serve(given).expect_err(text).to_string();
            assert!(refused.contains(named), "{refused}");
        }
        let missing = DatabaseArgs {
            config: Some("/nonexistent/fleetd.toml".into()),
            ..DatabaseArgs::default()
        };
        assert!(
            database(missing)
                .expect_err("is missing")
                .to_string()
                .contains("/nonexistent/fleetd.toml")
        );
    }
}
