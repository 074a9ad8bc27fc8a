//! The certificate authorities that a client trusts.

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, pem::PemObject},
};

use super::ChannelError;

/// The authorities that may sign a server's certificate.
#[derive(Debug, Clone, Default)]
pub enum Roots {
    /// The authorities of the operating system.
    #[default]
    System,
    /// Only the authorities in this PEM file.
    File(PathBuf),
    /// Only the authorities in this PEM text.
    Pem(String),
    /// The authorities of the operating system, and those in this PEM text.
    SystemAnd(String),
}

impl Roots {
    /// Checks that the authorities can be read.
    ///
    /// # Errors
    ///
    /// There is no certificate, or one cannot be read.
    pub fn check(&self) -> Result<(), ChannelError> {
        self.load().map(drop)
    }

    fn load(&self) -> Result<RootCertStore, ChannelError> {
        let certificates = match self {
            Self::System => rustls_native_certs::load_native_certs().certs,
            Self::File(path) => {
                let unreadable = |reason: String| ChannelError::CaFile {
                    path: path.clone(),
                    reason,
                };
                let pem = std::fs::read(path).map_err(|e| unreadable(e.to_string()))?;
                certificates(&pem).map_err(unreadable)?
            }
            Self::Pem(text) => {
                certificates(text.as_bytes()).map_err(|reason| ChannelError::Ca { reason })?
            }
            Self::SystemAnd(text) => {
                let own = certificates(text.as_bytes());
                let own = own.map_err(|reason| ChannelError::Ca { reason })?;
                let system = rustls_native_certs::load_native_certs().certs;
                system.into_iter().chain(own).collect()
            }
        };
        let mut roots = RootCertStore::empty();
        // System stores contain certificates that rustls
        // cannot read. They must not make the others useless.
        roots.add_parsable_certificates(certificates);
        if roots.is_empty() {
            Err(ChannelError::NoRoots)
        } else {
            Ok(roots)
        }
    }

    /// Returns a client configuration that offers these protocols.
    pub(super) fn client_config(&self, alpn: &[&[u8]]) -> Result<ClientConfig, ChannelError> {
        // The process may have no default provider, or another one.
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .map_err(|e| ChannelError::Ca {
                reason: e.to_string(),
            })?
            .with_root_certificates(self.load()?)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|p| p.to_vec()).collect();
        Ok(config)
    }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let certificates: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| e.to_string())?;
    if certificates.is_empty() {
        Err("no certificate in it".to_owned())
    } else {
        Ok(certificates)
    }
}
