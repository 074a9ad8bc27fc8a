//! The certificate of the server: loaded from files, or generated for development.

use std::{
    fmt,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
};
use tokio_rustls::TlsAcceptor;

/// Why TLS cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the certificate chain cannot be used.
    #[error("the certificate file {} cannot be used: {reason}", path.display())]
    Certificate {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with the private key cannot be used.
    #[error("the key file {} cannot be used: {reason}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// What is wrong with it; never its content.
        reason: String,
    },
    /// Certificate and key do not make an identity.
    #[error("the certificate and its key do not fit together: {reason}")]
    Pair {
        /// The error of rustls.
        reason: String,
    },
    /// A development certificate cannot be generated.
    #[error("no development certificate for {names:?}: {reason}")]
    Development {
        /// The names it should have.
        names: Vec<String>,
        /// What is wrong with them.
        reason: String,
    },
}

/// A certificate chain with its key, ready to accept TLS 1.2 and 1.3 with HTTP/2 and HTTP/1.1.
#[derive(Clone)]
pub struct TlsIdentity(Arc<ServerConfig>);

impl TlsIdentity {
    /// Loads PEM files.
    ///
    /// # Errors
    ///
    /// Which file cannot be used and why, or that the two do not fit together.
    pub fn load(certificate: &Path, key: &Path) -> Result<Self, TlsError> {
        let bad_certificate = |reason: String| TlsError::Certificate {
            path: certificate.to_owned(),
            reason,
        };
        let bad_key = |reason: String| TlsError::Key {
            path: key.to_owned(),
            reason,
        };
        let certificate_pem =
            std::fs::read(certificate).map_err(|e| bad_certificate(e.to_string()))?;
        let key_pem = std::fs::read(key).map_err(|e| bad_key(e.to_string()))?;
        Self::build(
            chain(&certificate_pem).map_err(bad_certificate)?,
            private_key(&key_pem).map_err(bad_key)?,
        )
    }

    /// Reads PEM texts.
    ///
    /// # Errors
    ///
    /// They do not make an identity.
    pub fn from_pem(certificate: &str, key: &str) -> Result<Self, TlsError> {
        let pair = |reason| TlsError::Pair { reason };
        Self::build(
            chain(certificate.as_bytes()).map_err(pair)?,
            private_key(key.as_bytes()).map_err(pair)?,
        )
    }

    fn build(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
    ) -> Result<Self, TlsError> {
        let pair = |e: rustls::Error| TlsError::Pair {
            reason: e.to_string(),
        };
        let mut config =
            // The process may have no default provider, or another one.
            ServerConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
                .with_safe_default_protocol_versions()
                .map_err(pair)?
                .with_no_client_auth()
                .with_single_cert(chain, key)
                .map_err(pair)?;
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config)))
    }

    pub(super) fn acceptor(&self) -> TlsAcceptor {
        Arc::clone(&self.0).into()
    }
}

impl fmt::Debug for TlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsIdentity").finish_non_exhaustive()
    }
}

fn chain(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    if chain.is_empty() {
        Err("no certificate in it".to_owned())
    } else {
        Ok(chain)
    }
}

fn private_key(pem: &[u8]) -> Result<PrivateKeyDer<'static>, String> {
    PrivateKeyDer::from_pem_slice(pem).map_err(|e| e.to_string())
}

/// A self-signed certificate for development.
#[derive(Clone)]
pub struct DevCertificate {
    /// The certificate, which is its own authority.
    pub cert_pem: String,
    /// Its key.
    pub key_pem: String,
}

impl fmt::Debug for DevCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DevCertificate").finish_non_exhaustive()
    }
}

/// Generates a certificate for host names and addresses.
///
/// # Errors
///
/// A name that no certificate can have.
pub fn dev_certificate(names: &[String]) -> Result<DevCertificate, TlsError> {
    let made = rcgen::generate_simple_self_signed(names).map_err(|e| TlsError::Development {
        names: names.to_vec(),
        reason: e.to_string(),
    })?;
    Ok(DevCertificate {
        cert_pem: made.cert.pem(),
        key_pem: made.signing_key.serialize_pem(),
    })
}
