//! One connection to a device, plain or with TLS.
//!
//! **Certificates are not verified**, because devices use self-signed ones. Never send secrets through a [`Line`]. TLS
//! only serves to reach devices that support no plain protocol. rustls bounds a handshake to 64 KiB per message. The
//! caller bounds its time.

use std::{
    io,
    pin::Pin,
    sync::{Arc, LazyLock},
    task::{Context, Poll},
};

use fleet_core::Endpoint;
use rustls::{
    DigitallySignedStruct, SignatureScheme,
    client::{
        ClientConfig, Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::FIRST_WORDS;

#[derive(Debug)]
pub(super) enum Line {
    Plain(TcpStream),
    Tls(Box<TlsStream<RecordingStream>>),
}

/// Why a handshake failed.
#[derive(Debug)]
pub(super) struct NoTls {
    pub(super) error: io::Error,
    /// The first bytes that the device sent instead.
    pub(super) received: Vec<u8>,
}

impl Line {
    /// Performs the handshake unless it is done.
    ///
    /// # Errors
    /// [`NoTls`] if the device does not support TLS, or only obsolete versions or ciphers.
    pub(super) async fn encrypted(self, endpoint: Endpoint) -> Result<Self, NoTls> {
        let stream = match self {
            Self::Tls(_) => return Ok(self),
            Self::Plain(stream) => stream,
        };
        let Some(config) = CONFIG.as_ref() else {
            return Err(NoTls {
                error: io::ErrorKind::Unsupported.into(),
                received: Vec::new(),
            });
        };
        let recorder = RecordingStream {
            stream,
            first: Vec::new(),
        };
        let name = ServerName::IpAddress(endpoint.ip.into());
        let connecting = TlsConnector::from(Arc::clone(config)).connect(name, recorder);
        match connecting.into_fallible().await {
            Ok(stream) => Ok(Self::Tls(Box::new(stream))),
            Err((error, recorder)) => Err(NoTls {
                error,
                received: recorder.first,
            }),
        }
    }

    pub(super) async fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes).await,
            Self::Tls(stream) => {
                stream.write_all(bytes).await?;
                // tokio-rustls may hold back the last record until a flush.
                stream.flush().await
            }
        }
    }

    pub(super) async fn read(&mut self, block: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(block).await,
            // Devices close without a TLS alert. The framing of the answer shows whether it is complete.
            Self::Tls(stream) => match stream.read(block).await {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(0),
                outcome => outcome,
            },
        }
    }
}

/// A connection that keeps a copy of the first received bytes.
#[derive(Debug)]
pub(super) struct RecordingStream {
    stream: TcpStream,
    first: Vec<u8>,
}

impl AsyncRead for RecordingStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        block: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = block.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(context, block);
        let room = FIRST_WORDS.saturating_sub(self.first.len());
        self.first
            .extend(block.filled().iter().skip(before).take(room));
        polled
    }
}

impl AsyncWrite for RecordingStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// One configuration per process. It stores no sessions, so it does not grow with the number of devices. Its
/// construction cannot fail, because its versions are those of the provider.
static CONFIG: LazyLock<Option<Arc<ClientConfig>>> = LazyLock::new(|| {
    let provider = Arc::new(ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .ok()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody { provider }))
        .with_no_client_auth();
    config.resumption = Resumption::disabled();
    config.enable_sni = false;
    Some(Arc::new(config))
});

/// Accepts every certificate.
#[derive(Debug)]
struct Anybody {
    provider: Arc<CryptoProvider>,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
