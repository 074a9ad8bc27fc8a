//! [`DatabaseUrl`]: a parsed database URL, and its description for people.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr as _,
};

use sea_orm::sqlx::{
    postgres::{PgConnectOptions, PgSslMode},
    sqlite::SqliteConnectOptions,
};

use crate::StoreError;

/// A valid database URL. It is displayed without its password.
#[derive(Clone)]
pub struct DatabaseUrl {
    text: String,
    engine: Engine,
}

/// The kind of database that a URL names.
#[derive(Clone)]
pub(crate) enum Engine {
    Sqlite { file: PathBuf },
    Postgres(Box<PgConnectOptions>),
}

impl DatabaseUrl {
    /// Parses a URL.
    ///
    /// # Errors
    ///
    /// [`StoreError::Url`] states what is wrong, without the password.
    pub fn parse(text: &str) -> Result<Self, StoreError> {
        let refused = |detail: String| StoreError::Url {
            url: without_password(text),
            detail,
        };
        // sea-orm knows only the short scheme.
        let text = match text.strip_prefix("postgresql://") {
            Some(rest) => format!("postgres://{rest}"),
            None => text.to_owned(),
        };
        Ok(Self {
            engine: Engine::of(&text).map_err(refused)?,
            text,
        })
    }

    /// The file of a SQLite database.
    pub fn sqlite_file(&self) -> Option<&Path> {
        match &self.engine {
            Engine::Sqlite { file } => Some(file),
            Engine::Postgres(_) => None,
        }
    }

    /// Why connections to the database can be read or redirected by others on the network, if they can.
    pub fn transport_warning(&self) -> Option<String> {
        let Engine::Postgres(options) = &self.engine else {
            return None;
        };
        let mode = options.get_ssl_mode();
        let local = socket(options).is_some()
            || options.get_host() == "localhost"
            || options
                .get_host()
                .parse()
                .is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        if local || matches!(mode, PgSslMode::VerifyFull) {
            return None;
        }
        Some(format!(
            "connections to the database at {} use sslmode={}, which does not check the server's certificate and name: add sslmode=verify-full and sslrootcert to the database URL",
            options.get_host(),
            ssl_mode(mode)
        ))
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.text
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.engine
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.engine {
            Engine::Sqlite { file } => {
                let file = std::path::absolute(file).unwrap_or_else(|_| file.clone());
                write!(f, "SQLite file {}", file.display())
            }
            Engine::Postgres(options) => {
                let user = options.get_username();
                let name = options.get_database().unwrap_or(user);
                write!(f, "PostgreSQL database `{name}` of user `{user}` at ")?;
                match socket(options) {
                    Some(socket) => write!(f, "socket {}", socket.display()),
                    None => write!(
                        f,
                        "{}:{}, sslmode={}",
                        options.get_host(),
                        options.get_port(),
                        ssl_mode(options.get_ssl_mode())
                    ),
                }
            }
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

impl Engine {
    fn of(text: &str) -> Result<Self, String> {
        if text.starts_with("postgres://") {
            let options = PgConnectOptions::from_str(text).map_err(|error| error.to_string())?;
            return Ok(Self::Postgres(Box::new(options)));
        }
        let Some(rest) = text.strip_prefix("sqlite:") else {
            return Err("it must begin with sqlite: or postgres://".to_owned());
        };
        let path = rest
            .trim_start_matches("//")
            .split('?')
            .next()
            .unwrap_or_default();
        if path.is_empty() || path == ":memory:" || rest.contains("mode=memory") {
            return Err("SQLite needs a file here: several connections share it".to_owned());
        }
        // The driver decodes the path.
        let options = SqliteConnectOptions::from_str(text).map_err(|error| error.to_string())?;
        Ok(Self::Sqlite {
            file: options.get_filename().to_owned(),
        })
    }
}

/// The path of the Unix socket to PostgreSQL; none for TCP.
pub(crate) fn socket(options: &PgConnectOptions) -> Option<PathBuf> {
    let folder = match options.get_socket() {
        Some(folder) => folder.clone(),
        None if options.get_host().starts_with('/') => options.get_host().into(),
        None => return None,
    };
    Some(folder.join(format!(".s.PGSQL.{}", options.get_port())))
}

fn ssl_mode(mode: PgSslMode) -> &'static str {
    match mode {
        PgSslMode::Disable => "disable",
        PgSslMode::Allow => "allow",
        PgSslMode::Prefer => "prefer",
        PgSslMode::Require => "require",
        PgSslMode::VerifyCa => "verify-ca",
        PgSslMode::VerifyFull => "verify-full",
    }
}

/// The URL in a form that is safe to show, without its password. A query can contain one too.
fn without_password(url: &str) -> String {
    let Some((scheme, rest)) = url.split_once("://") else {
        return url.to_owned();
    };
    let rest = match rest.split_once('?') {
        Some((rest, _)) if scheme != "sqlite" => rest,
        Some(_) | None => rest,
    };
    match rest.rsplit_once('@') {
        Some((user, host)) => {
            let name = user.split(':').next().unwrap_or_default();
            format!("{scheme}://{name}@{host}")
        }
        None => format!("{scheme}://{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_checked_connection_or_one_on_this_machine_has_no_warning() {
        for (url, expected) in [
            (
                "postgres://fleet:hidden@db.test/fleet",
                Some("sslmode=prefer"),
            ),
            (
                "postgresql://fleet:hidden@db.test/fleet?sslmode=require",
                Some("sslmode=require"),
            ),
            (
                "postgres://fleet:hidden@10.0.0.7/fleet?sslmode=verify-ca",
                Some("sslmode=verify-ca"),
            ),
            (
                "postgres://fleet:hidden@db.test/fleet?sslmode=verify-full",
                None,
            ),
            ("postgres://fleet:hidden@localhost/fleet", None),
            ("postgres://fleet:hidden@127.0.0.1/fleet", None),
            ("postgres:///fleet?host=/run/postgresql&user=fleet", None),
            ("sqlite://fleet.db", None),
        ] {
            let read = DatabaseUrl::parse(url).expect(url);
            let warning = read.transport_warning();
            assert_eq!(warning.is_some(), expected.is_some(), "{url}: {warning:?}");
            if let (Some(warning), Some(expected)) = (warning, expected) {
                assert!(warning.contains(expected), "{warning}");
                assert!(read.to_string().contains(expected), "{read}");
                assert!(!warning.contains("hidden"), "{warning}");
            }
            assert!(!format!("{read} {read:?}").contains("hidden"), "{url}");
        }
    }

    #[test]
    fn a_url_is_shown_without_its_password() {
        for (url, expected) in [
            (
                "postgres://fleet:hidden@db.test/fleet",
                "postgres://fleet@db.test/fleet",
            ),
            (
                "postgres://db.test/fleet?password=hidden",
                "postgres://db.test/fleet",
            ),
            (
                "mysql://fleet:hid@den@db.test/?x=@hidden",
                "mysql://fleet@db.test/",
            ),
            ("sqlite://a.db?mode=ro", "sqlite://a.db?mode=ro"),
            ("nonsense", "nonsense"),
        ] {
            assert_eq!(without_password(url), expected, "{url}");
        }
    }
}
