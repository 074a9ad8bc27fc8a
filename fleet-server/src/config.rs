//! The configuration of a server: typed values only. The programs parse flags, files and variables.

use std::{fmt, num::NonZeroU32, sync::Arc, time::Duration};

use fleet_core::AddressPolicy;
use fleet_wire::client::Roots;
use ipnetwork::IpNetwork;
use zeroize::Zeroizing;

use crate::{prober::Prober, provider::SignInProvider};

/// The configuration of a [`Server`](crate::Server).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Which addresses may be scanned and reported.
    pub addresses: AddressPolicy,
    /// Whether host names are sent to nodes that cannot report the addresses that they resolved.
    pub unpinned_names: bool,
    /// Limits of calls that need no credential; none switches them off.
    pub rates: Option<Rates>,
    /// Proxies whose `X-Forwarded-For` is trusted.
    pub trusted_proxies: Vec<IpNetwork>,
    /// Whether browsers reach this server by https, independently of the protocol of the last hop. Sessions then use
    /// a `Secure` `__Host-` cookie and no other.
    pub public_https: bool,
    /// The version that `WhoAmI` and nodes receive.
    pub version: String,
    /// The longest time over which nodes reconnect after a drain. Few nodes reconnect within a second.
    pub drain_window: Duration,
    /// How the server reaches devices itself; none switches that off.
    pub direct: Option<DirectPath>,
    /// The name of the organization that owns the server's own network. Only its webhooks go to private addresses. Without
    /// it, the server must have only one organization for that.
    pub network_owner: Option<String>,
    /// How long the events of a scan are kept after its end; none keeps them for ever. The audit trail is always kept.
    pub scan_events_kept: Option<Duration>,
    /// How long whole scans with their results are kept after their end; none keeps them for ever.
    pub scans_kept: Option<Duration>,
    /// Whether the last scan of the same targets with a result is kept beyond that, because the next one is compared with
    /// it.
    pub last_scans_kept: bool,
    /// How the server sends e-mail; none switches that off.
    pub smtp: Option<Smtp>,
    /// The authorities that sign the certificates of webhooks.
    pub webhook_roots: Roots,
    /// The OpenID provider through which operators sign in, if there is one.
    pub provider: Option<SignInProvider>,
    /// Whether operators sign in with passwords. If not, only one-time passwords are accepted, which `fleetd admin`
    /// creates.
    pub password_sign_in: bool,
}

/// How long the events of a scan are kept by default.
const EVENTS_KEPT: Duration = Duration::from_secs(30 * 24 * 3_600);

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            addresses: AddressPolicy::default(),
            unpinned_names: false,
            rates: Some(Rates::default()),
            trusted_proxies: Vec::new(),
            public_https: false,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            drain_window: Duration::from_secs(10),
            direct: None,
            network_owner: None,
            scan_events_kept: Some(EVENTS_KEPT),
            scans_kept: None,
            last_scans_kept: true,
            smtp: None,
            webhook_roots: Roots::System,
            provider: None,
            password_sign_in: true,
        }
    }
}

/// Allowances per minute.
#[derive(Clone, Copy, Debug)]
pub struct Rates {
    /// `Register` calls, per address.
    pub register: NonZeroU32,
    /// Handshake calls, per address.
    pub handshakes: NonZeroU32,
    /// Requests for API keys by nodes that wait for a confirmation, per address. Each costs one look into the database.
    pub key_fetches: NonZeroU32,
    /// Handshake calls, per API key.
    pub handshakes_of_a_key: NonZeroU32,
    /// Sign-ins of browsers, per address.
    pub sign_ins: NonZeroU32,
    /// Passwords tried for one account: per address from which its owner has signed in before, and for all
    /// other addresses together. An unknown peer that guesses therefore cannot lock the owner out, and many
    /// unknown peers guess no faster than one.
    pub passwords_of_an_account: NonZeroU32,
    /// Keys, sessions and node tokens that do not exist, per address. Each costs one look into the database.
    pub unknown_credentials: NonZeroU32,
    /// Calls with one credential, and calls of one node or operator with all of its credentials. A node that scans a full
    /// network makes a quarter of these.
    pub calls_of_a_caller: NonZeroU32,
}

impl Default for Rates {
    fn default() -> Self {
        let per_minute = |n| NonZeroU32::new(n).unwrap_or(NonZeroU32::MIN);
        Self {
            register: per_minute(10),
            handshakes: per_minute(600),
            key_fetches: per_minute(6_000),
            handshakes_of_a_key: per_minute(30),
            sign_ins: per_minute(30),
            passwords_of_an_account: per_minute(10),
            unknown_credentials: per_minute(600),
            calls_of_a_caller: per_minute(6_000),
        }
    }
}

/// How the server reaches devices itself.
#[derive(Clone, Debug)]
pub struct DirectPath {
    /// The name of the organization that owns the networks. No other one may scan them. Without it, the server must have
    /// only one organization.
    pub organization: Option<String>,
    /// The only networks that the server dials; of these, private addresses only.
    pub networks: Vec<IpNetwork>,
    /// The implementation that dials.
    pub prober: Arc<dyn Prober>,
}

/// The mail server.
#[derive(Clone)]
pub struct Smtp {
    /// Its name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// How the connection is encrypted.
    pub security: SmtpSecurity,
    /// The sender of all messages, such as `Fleet <fleet@example.org>`.
    pub from: String,
    /// The user and the password, if the mail server wants them.
    pub login: Option<(String, Zeroizing<String>)>,
    /// PEM text with authorities that may sign its certificate, besides those of the operating system.
    pub ca: Option<String>,
}

impl Smtp {
    /// Whether the sender is an address, with or without a name.
    pub fn has_valid_sender(&self) -> bool {
        self.from.parse::<lettre::message::Mailbox>().is_ok()
    }
}

impl fmt::Debug for Smtp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Smtp")
            .field("host", &self.host)
            .field("port", &self.port)
            .field("security", &self.security)
            .finish_non_exhaustive()
    }
}

/// How a connection to a mail server is encrypted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SmtpSecurity {
    /// TLS from the first byte, usually on port 465.
    Tls,
    /// STARTTLS is required, usually on port 587.
    #[default]
    StartTls,
    /// None: only for a mail server on the same machine.
    None,
}
