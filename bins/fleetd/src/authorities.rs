//! Files with certificate authorities of an organization, for mail servers and webhooks. Start with [`read`].

use std::path::Path;

use fleet_wire::client::Roots;

use crate::config::ConfigError;

/// Reads a PEM file with at least one certificate. `key` is the key of the configuration that names the file.
///
/// # Errors
///
/// The file cannot be read, or has no certificate. The text has the key and the file.
pub(crate) fn read(key: &str, file: &Path) -> Result<String, ConfigError> {
    let refused =
        |why: String| ConfigError::new(format!("cannot use {key} {}: {why}", file.display()));
    let pem = std::fs::read_to_string(file).map_err(|error| refused(error.to_string()))?;
    let roots = Roots::SystemAnd(pem.clone());
    roots.check().map_err(|error| refused(error.to_string()))?;
    Ok(pem)
}

#[cfg(test)]
mod tests {
    use fleet_wire::listener::dev_certificate;

    use super::*;

    #[test]
    fn a_file_without_a_certificate_is_refused_with_its_key() {
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("ca.pem");
        let refused = |expected: &str| {
            let error = read("smtp.ca-file", &file).expect_err(expected).to_string();
            assert!(error.contains("smtp.ca-file"), "{error}");
            assert!(error.contains(expected), "{error}");
        };
        refused("ca.pem");
        std::fs::write(&file, "hello").expect("writes");
        refused("no certificate");
        let certificate = dev_certificate(&["localhost".to_owned()]).expect("is made");
        std::fs::write(&file, &certificate.cert_pem).expect("writes");
        assert_eq!(
            read("smtp.ca-file", &file).expect("is fine"),
            certificate.cert_pem
        );
    }
}
