//! Commands about keys, operators and sessions.

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub(crate) enum Keys {
    /// List the keys that are neither revoked nor expired.
    List {
        /// List the keys of all operators of the organization; needs org:admin.
        #[arg(long)]
        all: bool,
    },
    /// Create a key and print it on standard output. It is shown only once.
    Create {
        /// Name of the key, such as the script that uses it.
        #[arg(long)]
        name: String,
        /// Time until the key expires, in seconds. Without it, the key does not expire.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(60..))]
        expires_in: Option<i64>,
        /// Id of the operator that the key is for [default: yourself]; another operator needs org:admin.
        #[arg(
            long,
            default_value_t = 0,
            hide_default_value = true,
            value_name = "ID"
        )]
        operator: i64,
    },
    /// Revoke a key and end the browser sessions that were opened with it.
    Revoke {
        /// Id of the key.
        key: i64,
    },
    /// Create a key that replaces another one. It is shown only once.
    Rotate {
        /// Id of the key to replace.
        key: i64,
        /// Time until the replaced key expires, in seconds, at most 30 days; 0 revokes it at once.
        #[arg(long, value_name = "SECONDS", value_parser = clap::value_parser!(i64).range(0..=2_592_000))]
        grace: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Operators {
    /// List the operators.
    List,
    /// Create an operator and print a one-time password on standard output. It is shown only once.
    Create {
        /// E-mail of the operator, unique in the organization.
        #[arg(long)]
        email: String,
        /// viewer (reads), operator (manages nodes, scans and pairing) or admin (everything).
        #[arg(long)]
        role: fleet_core::Role,
    },
    /// Change the role of an operator.
    SetRole {
        /// Id of the operator.
        operator: i64,
        /// viewer, operator or admin.
        role: fleet_core::Role,
    },
    /// Remove an operator. The operator's keys and sessions become invalid at once.
    Remove {
        /// Id of the operator.
        operator: i64,
        /// Skip the confirmation.
        #[arg(long)]
        yes: bool,
    },
    /// Remove the link between an operator and an account of the sign-in provider, and end the sessions that it opened.
    Unlink {
        /// Id of the operator.
        operator: i64,
    },
    /// Print a one-time password for an operator on standard output and end the operator's browser sessions.
    ResetPassword {
        /// Id of the operator.
        operator: i64,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Sessions {
    /// List your browser sessions.
    List {
        /// List the sessions of all operators of the organization; needs org:admin.
        #[arg(long)]
        all: bool,
    },
    /// End one of your browser sessions; with org:admin, a session of any operator.
    End {
        /// Id of the session.
        session: i64,
    },
}
