//! The table `smtp` of the configuration file: the mail server for alerts. Start with [`SmtpFile`].

use std::path::{Path, PathBuf};

use fleet_server::{Smtp, SmtpSecurity};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{authorities, config::ConfigError};

/// The mail server for alerts.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub(crate) struct SmtpFile {
    host: String,
    port: Option<u16>,
    /// `starttls`, `tls` or `none`.
    security: Option<String>,
    /// The sender, such as `Fleet <fleet@example.org>`.
    from: String,
    user: Option<String>,
    /// A PEM file with authorities besides those of the operating system.
    ca_file: Option<PathBuf>,
    /// The file with the password; otherwise it is in FLEETD_SMTP_PASSWORD.
    password_file: Option<PathBuf>,
}

/// The variable with the password of the mail server.
pub(crate) const PASSWORD: &str = "FLEETD_SMTP_PASSWORD";

impl SmtpFile {
    /// Checks the settings. `variable` is the value of the variable [`PASSWORD`].
    pub(crate) fn interpret(self, variable: Option<String>) -> Result<Smtp, ConfigError> {
        let security = match self.security.as_deref() {
            None | Some("starttls") => SmtpSecurity::StartTls,
            Some("tls") => SmtpSecurity::Tls,
            Some("none") => SmtpSecurity::None,
            Some(other) => {
                return Err(ConfigError::new(format!(
                    "smtp.security is `{other}`: use starttls, tls or none"
                )));
            }
        };
        if security == SmtpSecurity::None && self.user.is_some() {
            let local = ["localhost", "127.0.0.1", "::1"].contains(&self.host.as_str());
            if !local {
                return Err(ConfigError::new(format!(
                    "smtp.security is none, so the password would be sent in clear text to {}: use starttls or tls",
                    self.host
                )));
            }
        }
        let login = match (self.user, self.password_file, variable) {
            (None, None, _) => None,
            (None, Some(_), _) => {
                return Err(ConfigError::new(
                    "smtp.password-file is set but smtp.user is missing: set both".to_owned(),
                ));
            }
            (Some(user), Some(file), _) => Some((user, password_of("smtp.password-file", &file)?)),
            (Some(user), None, Some(password)) => Some((user, password.into())),
            (Some(_), None, None) => {
                return Err(ConfigError::new(format!(
                    "smtp.user is set but its password is missing: set smtp.password-file or the variable {PASSWORD}"
                )));
            }
        };
        let ca = match &self.ca_file {
            Some(_) if security == SmtpSecurity::None => {
                return Err(ConfigError::new(
                    "smtp.ca-file is set but smtp.security is none: use starttls or tls".to_owned(),
                ));
            }
            Some(file) => Some(authorities::read("smtp.ca-file", file)?),
            None => None,
        };
        let port = match security {
            SmtpSecurity::Tls => 465,
            SmtpSecurity::StartTls => 587,
            SmtpSecurity::None => 25,
        };
        let smtp = Smtp {
            host: self.host,
            port: self.port.unwrap_or(port),
            security,
            from: self.from,
            login,
            ca,
        };
        if !smtp.has_valid_sender() {
            return Err(ConfigError::new(format!(
                "smtp.from is `{}`: use an address such as Fleet <fleet@example.org>",
                smtp.from
            )));
        }
        Ok(smtp)
    }
}

/// Reads a password from the first line of a file, which `key` names.
pub(crate) fn password_of(key: &str, file: &Path) -> Result<Zeroizing<String>, ConfigError> {
    let text = std::fs::read_to_string(file).map(Zeroizing::new);
    let text = text.map_err(|error| {
        ConfigError::new(format!("cannot read {key} {}: {error}", file.display()))
    })?;
    Ok(text.lines().next().unwrap_or_default().to_owned().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_password_of_the_mail_server_comes_from_a_file_or_the_environment() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("password");
        std::fs::write(&file, "pass word\nrest\n").expect("writes");
        let smtp = |text: &str, variable: Option<&str>| {
            let read: SmtpFile = toml::from_str(text).expect(text);
            read.interpret(variable.map(str::to_owned))
        };
        let base = "host = \"mail.test\"\nfrom = \"fleet@mail.test\"\n";
        let read = smtp(base, None).expect("is fine");
        assert_eq!((read.port, read.security), (587, SmtpSecurity::StartTls));
        assert!(read.login.is_none());
        let named = format!("{base}user = \"fleet\"\n");
        let with_file = format!("{named}password-file = {file:?}\nsecurity = \"tls\"\n");
        for (text, variable, port, expected) in [
            (&named, Some("of the variable"), 587, "of the variable"),
            (&with_file, Some("of the variable"), 465, "pass word"),
        ] {
            let read = smtp(text, variable).expect("is fine");
            let (user, password) = read.login.clone().expect("a login");
            assert_eq!(
                (user.as_str(), password.as_str(), read.port),
                ("fleet", expected, port)
            );
            assert!(!format!("{read:?}").contains(expected));
        }
        for (text, expected) in [
            (named.clone(), "FLEETD_SMTP_PASSWORD"),
            (
                format!("{base}password-file = \"x\"\n"),
                "smtp.user is missing",
            ),
            (
                format!("{named}password-file = \"/does/not/exist\"\n"),
                "/does/not/exist",
            ),
            (format!("{base}security = \"ssl\"\n"), "`ssl`"),
            (
                "host = \"mail.test\"\nfrom = \"fleet\"\n".to_owned(),
                "smtp.from is `fleet`",
            ),
            (format!("{named}security = \"none\"\n"), "clear text"),
            (
                format!("{base}ca-file = \"/does/not/exist\"\n"),
                "smtp.ca-file /does/not/exist",
            ),
            (
                format!("{base}ca-file = \"x\"\nsecurity = \"none\"\n"),
                "smtp.security is none",
            ),
        ] {
            let refused = smtp(&text, None).expect_err(expected).to_string();
            assert!(refused.contains(expected), "{refused}");
        }
    }
}
