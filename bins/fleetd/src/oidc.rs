//! Sign-in through an OpenID provider: its flags, and the table `oidc` of the configuration file. Start with
//! [`interpret`].

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use fleet_core::{Role, sso::SignInPolicy};
use fleet_server::{EMAIL_VERIFIED, SignInProvider};
use fleet_wire::client::{PostUrl, Roots};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{authorities, config::ConfigError, smtp::password_of};

/// The variable with the client secret.
pub(crate) const SECRET: &str = "FLEETD_OIDC_CLIENT_SECRET";

#[derive(Clone, Debug, Default, Args)]
pub(crate) struct OidcArgs {
    /// Issuer of the OpenID provider through which operators sign in, such as
    /// `https://id.example.org/realms/fleet`; needs --public-url.
    #[arg(long, env = "FLEETD_OIDC_ISSUER", value_name = "URL")]
    pub(crate) oidc_issuer: Option<String>,
    /// Client id of this server at the provider.
    #[arg(long, env = "FLEETD_OIDC_CLIENT_ID", value_name = "ID")]
    pub(crate) oidc_client_id: Option<String>,
    /// File with the client secret; otherwise it is in FLEETD_OIDC_CLIENT_SECRET.
    #[arg(long, env = "FLEETD_OIDC_CLIENT_SECRET_FILE", value_name = "FILE")]
    pub(crate) oidc_client_secret_file: Option<PathBuf>,
    /// Name of the provider on the sign-in page [default: host of the issuer]
    #[arg(long, env = "FLEETD_OIDC_NAME", value_name = "NAME")]
    pub(crate) oidc_name: Option<String>,
    /// Organization whose operators the provider signs in, if there are several.
    #[arg(long, env = "FLEETD_OIDC_ORGANIZATION", value_name = "ORG")]
    pub(crate) oidc_organization: Option<String>,
    /// Domain of e-mails that may sign in through the provider; repeatable [default: every domain]
    #[arg(
        long,
        env = "FLEETD_OIDC_DOMAIN",
        value_name = "DOMAIN",
        value_delimiter = ','
    )]
    pub(crate) oidc_domain: Vec<String>,
    /// Create an operator at the first sign-in of an unknown e-mail.
    #[arg(long, env = "FLEETD_OIDC_CREATE_OPERATORS", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    pub(crate) oidc_create_operators: Option<bool>,
    /// Claim of the ID token with the groups of --oidc-role [default: groups]
    #[arg(long, env = "FLEETD_OIDC_ROLE_CLAIM", value_name = "CLAIM")]
    pub(crate) oidc_role_claim: Option<String>,
    /// Role of a group, which each sign-in refreshes; repeatable.
    #[arg(
        long,
        env = "FLEETD_OIDC_ROLE",
        value_name = "GROUP=ROLE",
        value_delimiter = ','
    )]
    pub(crate) oidc_role: Vec<String>,
    /// Whether operators sign in with passwords. With `off`, only one-time passwords are accepted, which `fleetd admin`
    /// creates [default: on]
    #[arg(long, env = "FLEETD_PASSWORD_SIGN_IN", value_name = "on|off")]
    pub(crate) password_sign_in: Option<Switch>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Switch {
    On,
    Off,
}

/// The provider in the configuration file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub(crate) struct OidcFile {
    issuer: Option<String>,
    client_id: Option<String>,
    client_secret_file: Option<PathBuf>,
    /// A PEM file with authorities besides those of the operating system.
    ca_file: Option<PathBuf>,
    name: Option<String>,
    organization: Option<String>,
    domains: Vec<String>,
    create_operators: Option<bool>,
    /// Scopes besides `openid` and `email`, such as `profile` or `groups`.
    scopes: Vec<String>,
    role_claim: Option<String>,
    /// The claim that says whether the e-mail is verified, if it is not `email_verified`.
    email_verified_claim: Option<String>,
    /// The role of each group.
    roles: BTreeMap<String, String>,
}

/// The settings of sign-in.
#[derive(Clone, Debug)]
pub(crate) struct SignIn {
    pub(crate) provider: Option<SignInProvider>,
    pub(crate) passwords: bool,
}

/// Checks flags and file. `variable` is the value of the variable [`SECRET`].
pub(crate) fn interpret(
    args: OidcArgs,
    file: OidcFile,
    passwords: Option<Switch>,
    public_url: Option<&str>,
    variable: Option<String>,
) -> Result<SignIn, ConfigError> {
    let passwords = args.password_sign_in.or(passwords) != Some(Switch::Off);
    let Some(issuer) = args.oidc_issuer.or(file.issuer) else {
        if !passwords {
            return Err(error(
                "password-sign-in is off but oidc.issuer is missing: operators could not sign in",
            ));
        }
        return Ok(SignIn {
            provider: None,
            passwords,
        });
    };
    let Some(public_url) = public_url else {
        return Err(error(
            "oidc.issuer is set but public-url is missing: the provider sends browsers back to public-url",
        ));
    };
    let Some(client_id) = args.oidc_client_id.or(file.client_id) else {
        return Err(error("oidc.issuer is set but oidc.client-id is missing"));
    };
    let named = args.oidc_client_secret_file.or(file.client_secret_file);
    let client_secret: Zeroizing<String> = match (named, variable) {
        (Some(file), _) => password_of("oidc.client-secret-file", &file)?,
        (None, Some(secret)) => secret.into(),
        (None, None) => {
            return Err(error(&format!(
                "oidc.issuer is set but the client secret is missing: set oidc.client-secret-file or the variable {SECRET}"
            )));
        }
    };
    if client_secret.is_empty() {
        return Err(error("oidc.client-secret-file is empty"));
    }
    let mut roles = BTreeMap::new();
    let flags = args.oidc_role.iter().map(|pair| {
        pair.rsplit_once('=')
            .ok_or_else(|| error(&format!("oidc-role is `{pair}`: write GROUP=ROLE")))
            .map(|(group, role)| (group.to_owned(), role.to_owned()))
    });
    let flags: Vec<_> = flags.collect::<Result<_, _>>()?;
    let pairs = if flags.is_empty() {
        file.roles.into_iter().collect()
    } else {
        flags
    };
    for (group, role) in pairs {
        let role: Role = role
            .parse()
            .map_err(|wrong| error(&format!("oidc.roles: {wrong}")))?;
        roles.insert(group, role);
    }
    let domains = if args.oidc_domain.is_empty() {
        file.domains
    } else {
        args.oidc_domain
    };
    if let Some(wrong) = domains.iter().find(|domain| domain.contains('@')) {
        return Err(error(&format!(
            "oidc.domains contains `{wrong}`: write the domain alone, such as example.org"
        )));
    }
    let roots = match &file.ca_file {
        Some(ca) => Roots::SystemAnd(authorities::read("oidc.ca-file", ca)?),
        None => Roots::System,
    };
    let host = issuer
        .parse::<PostUrl>()
        .map_or_else(|_| "OpenID".to_owned(), |url| url.host().to_owned());
    let provider = SignInProvider {
        name: args.oidc_name.or(file.name).unwrap_or(host),
        issuer,
        client_id,
        client_secret,
        public_url: public_url.trim_end_matches('/').to_owned(),
        organization: args.oidc_organization.or(file.organization),
        scopes: file.scopes,
        group_claim: args
            .oidc_role_claim
            .or(file.role_claim)
            .unwrap_or_else(|| "groups".to_owned()),
        verified_claim: file
            .email_verified_claim
            .unwrap_or_else(|| EMAIL_VERIFIED.to_owned()),
        policy: SignInPolicy {
            domains: domains.iter().map(|domain| domain.to_lowercase()).collect(),
            creates: args
                .oidc_create_operators
                .or(file.create_operators)
                .unwrap_or(false),
            roles,
        },
        roots,
    };
    provider.check().map_err(|wrong| error(&wrong))?;
    Ok(SignIn {
        provider: Some(provider),
        passwords,
    })
}

fn error(text: &str) -> ConfigError {
    ConfigError::new(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const BASE: &str = "issuer = \"https://id.test/realm\"\nclient-id = \"fleet\"\n";

    fn read(text: &str, passwords: Option<Switch>) -> Result<SignIn, ConfigError> {
        let file: OidcFile = toml::from_str(text).expect(text);
        let secret = Some("of the variable".to_owned());
        let public = Some("https://fleet.test/");
        interpret(OidcArgs::default(), file, passwords, public, secret)
    }

    #[test]
    fn a_provider_creates_nobody_and_gives_no_roles_unless_the_file_says_so() {
        let settings = read(BASE, None).expect("is fine");
        let provider = settings.provider.expect("a provider");
        assert!(settings.passwords);
        assert_eq!(provider.policy, SignInPolicy::default());
        assert_eq!(
            (provider.name.as_str(), provider.public_url.as_str()),
            ("id.test", "https://fleet.test")
        );
        assert_eq!(provider.client_secret.as_str(), "of the variable");
        assert!(!format!("{provider:?}").contains("variable"));
        let full = format!(
            "{BASE}name = \"Corp\"\ndomains = [\"Acme.test\"]\ncreate-operators = true\nrole-claim = \"roles\"\n[roles]\nops = \"operator\"\n"
        );
        let provider = read(&full, Some(Switch::Off)).expect("is fine");
        assert!(!provider.passwords);
        let provider = provider.provider.expect("a provider");
        assert_eq!(provider.policy.domains, ["acme.test"]);
        assert!(provider.policy.creates);
        assert_eq!(provider.policy.roles.get("ops"), Some(&Role::Operator));
        assert_eq!(provider.group_claim, "roles");
        assert_eq!(provider.verified_claim, "email_verified");
        let entra =
            format!("{BASE}email-verified-claim = \"xms_edov\"\ndomains = [\"acme.test\"]\n");
        let entra = read(&entra, None).expect("is fine").provider;
        assert_eq!(entra.expect("a provider").verified_claim, "xms_edov");
    }

    #[test]
    fn flags_override_the_file_and_the_file_of_the_secret_the_variable() {
        let dir = tempfile::tempdir().expect("a folder");
        let secret = dir.path().join("secret");
        std::fs::write(&secret, "of the file\n").expect("writes");
        let args = OidcArgs {
            oidc_issuer: Some("https://other.test".to_owned()),
            oidc_client_secret_file: Some(secret),
            oidc_role: vec!["a=b=admin".to_owned()],
            ..OidcArgs::default()
        };
        let file = toml::from_str(BASE).expect("is fine");
        let public = Some("https://fleet.test");
        let variable = Some("of the variable".to_owned());
        let settings = interpret(args, file, None, public, variable).expect("is fine");
        let provider = settings.provider.expect("a provider");
        assert_eq!(provider.issuer, "https://other.test");
        assert_eq!(provider.client_secret.as_str(), "of the file");
        assert_eq!(provider.policy.roles.get("a=b"), Some(&Role::Admin));
    }

    #[test]
    fn an_error_names_what_is_missing_or_wrong() {
        for (text, expected) in [
            ("issuer = \"https://id.test\"\n".to_owned(), "client-id"),
            (format!("{BASE}[roles]\na = \"root\"\n"), "`root`"),
            (format!("{BASE}domains = [\"a@b.test\"]\n"), "a@b.test"),
            (
                format!("{BASE}client-secret-file = \"/does/not/exist\"\n"),
                "/does/not/exist",
            ),
            (
                format!("{BASE}email-verified-claim = \"xms_edov\"\n"),
                "oidc.domains",
            ),
            (
                "issuer = \"http://id.test\"\nclient-id = \"fleet\"\n".to_owned(),
                "https",
            ),
        ] {
            let refused = read(&text, None).expect_err(expected).to_string();
            assert!(refused.contains(expected), "{refused}");
        }
        let off = read("", Some(Switch::Off)).expect_err("nobody could sign in");
        assert!(off.to_string().contains("oidc.issuer"), "{off}");
        let file = || toml::from_str(BASE).expect("is fine");
        let without = interpret(OidcArgs::default(), file(), None, None, None);
        assert!(without.is_err_and(|error| error.to_string().contains("public-url")));
        let public = Some("https://fleet.test");
        let without = interpret(OidcArgs::default(), file(), None, public, None);
        assert!(without.is_err_and(|error| error.to_string().contains(SECRET)));
    }
}
