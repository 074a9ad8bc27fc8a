//! Enrollment: the node registers with a code, then receives the operator's API key. Each step is saved before the next
//! one starts, so an interrupted enrollment can be continued. Start with [`register`].

use std::path::PathBuf;

use ed25519_dalek::{Signer, SigningKey};
use fleet_core::{
    Fingerprint, NodeId, Secret, SecretHash, SecretKind, key_statement, registration_statement,
};
use fleet_wire::{
    Code, RpcError,
    client::{CallOptions, Channel},
    fleet::{FetchNodeKeyRequest, NodeKeyClient, NodeKeyState},
    gateway::{FleetNodeGatewayClient, RegisterRequest},
};

use crate::{
    seal,
    session::{self, ServerClock, SessionError},
    state::{SecretKey, SecretText, Stage, StateDir, StateError, StateFile},
    transport::{self, ServerAddress, TransportError},
};

/// Options of an enrollment.
#[derive(Clone, Debug)]
pub struct EnrollOptions {
    /// The server's URL, including scheme and path prefix.
    pub server_url: String,
    /// The name to register, 1 to 255 characters.
    pub name: String,
    /// CA certificates to trust instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// The server is the upstream implementation, whose challenges have no tag.
    pub upstream_server: bool,
    /// Allow plain HTTP to another machine.
    pub allow_insecure_transport: bool,
}

impl EnrollOptions {
    /// Options for a server of this project, reached by https or on this machine, with the node name `fleetnode`.
    pub fn new(server_url: impl Into<String>) -> Self {
        Self {
            server_url: server_url.into(),
            name: "fleetnode".to_owned(),
            ca_file: None,
            upstream_server: false,
            allow_insecure_transport: false,
        }
    }
}

/// A registered node that an operator must confirm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Registration {
    /// The server's id for the node.
    pub fleet_node_id: i64,
    /// The fingerprint that the operator compares.
    pub fingerprint: Fingerprint,
}

/// Why an enrollment step failed.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// The state folder cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// The server's URL or certificates cannot be used.
    #[error(transparent)]
    Transport(#[from] TransportError),
    /// The handshake failed.
    #[error(transparent)]
    Session(#[from] SessionError),
    /// The node is already enrolled.
    #[error(
        "this node is already enrolled as {name:?} (id {fleet_node_id}); run it, or move {path} away to enroll again"
    )]
    AlreadyRegistered {
        /// Its name.
        name: String,
        /// Its id.
        fleet_node_id: i64,
        /// The state folder.
        path: PathBuf,
    },
    /// The node is not registered.
    #[error("this node is not registered; run `fleetnode enroll` with a code from the server")]
    NotRegistered,
    /// The server rejected the registration.
    #[error("{advice}")]
    Refused {
        /// What to do.
        advice: &'static str,
        /// The server's error.
        source: RpcError,
    },
    /// The server received a different key: an attacker may be between node and server.
    #[error(
        "the server reports fingerprint {theirs:?}, but this node's is {ours}; a key may have been exchanged on the way; nothing was saved, so revoke the node at the server and check the connection (an upstream server needs --upstream-server)"
    )]
    FingerprintDiffers {
        /// This node's.
        ours: Fingerprint,
        /// The server's, truncated.
        theirs: String,
    },
    /// The state of an upstream node cannot be imported.
    #[error("{} cannot be imported: {problem}", path.display())]
    Import {
        /// The file.
        path: PathBuf,
        /// The missing or invalid entry.
        problem: String,
    },
    /// The API key that the server sent cannot be opened.
    #[error(
        "the API key that the server sent is not sealed to this node's encryption key; revoke the node at the server and check the connection"
    )]
    Unsealed,
    /// The server could not be asked for the API key. It may be reachable again soon.
    #[error("cannot ask the server for the API key: {0}")]
    NotFetched(RpcError),
    /// Nobody has confirmed the node in time.
    #[error("the node was not confirmed in time")]
    NotConfirmed,
    /// The system provides no random bytes.
    #[error("the system provides no random bytes: {0}")]
    Random(getrandom::Error),
}

/// Creates the node's keys and registers them with an enrollment code. The state is saved after the server has returned
/// the same fingerprint.
///
/// # Errors
///
/// [`EnrollError`]: nothing is saved, and the code stays valid unless the fingerprint differs.
pub async fn register(
    dir: &StateDir,
    options: EnrollOptions,
    code: &SecretText,
) -> Result<Registration, EnrollError> {
    // New keys would replace those that the server knows.
    refuse_registered(dir)?;
    let mut state = StateFile {
        server_url: options.server_url,
        name: options.name,
        identity_key: new_key()?,
        encryption_key: new_key()?,
        ca_file: options.ca_file,
        allow_insecure_transport: options.allow_insecure_transport,
        upstream_server: options.upstream_server,
        imported: false,
        fleet_node_id: None,
        api_key: None,
    };
    let client = client(&state)?;
    // Copied before the registration, because a code works once and the copy can fail.
    if let Some(ca) = &state.ca_file {
        state.ca_file = Some(dir.keep_ca(ca)?);
    }
    let (identity, encryption) = (state.identity_public(), state.encryption_public());
    let statement = registration_statement(
        &SecretHash::of(code.expose()),
        &state.name,
        &identity,
        &encryption,
    );
    let proof = SigningKey::from_bytes(state.identity_key.expose()).sign(&statement);
    let request = RegisterRequest {
        enrollment_token: code.expose().to_owned(),
        name: state.name.clone(),
        identity_pubkey: identity.to_vec().into(),
        encryption_pubkey: encryption.to_vec().into(),
        // Upstream servers know neither the proof nor the fingerprint over both keys.
        identity_proof: if state.upstream_server {
            Vec::new().into()
        } else {
            proof.to_bytes().to_vec().into()
        },
    };
    let answer = client
        .register(&request, CallOptions::new())
        .await
        .map_err(refused)?;
    let fingerprint = state.fingerprint();
    if answer.identity_fingerprint != fingerprint.to_string() {
        let theirs = answer.identity_fingerprint.chars().take(64).collect();
        return Err(EnrollError::FingerprintDiffers {
            ours: fingerprint,
            theirs,
        });
    }
    state.fleet_node_id = Some(answer.fleet_node_id);
    dir.save(&state)?;
    Ok(Registration {
        fleet_node_id: answer.fleet_node_id,
        fingerprint,
    })
}

/// Saves the API key that the operator received for confirming the node, then proves it by a handshake. A key that the
/// server rejects is deleted again.
///
/// # Errors
///
/// [`EnrollError`]. Unless the key was rejected, [`refresh`] can prove the saved key later.
pub async fn finish(dir: &StateDir, api_key: SecretText) -> Result<(), EnrollError> {
    let mut state = dir
        .load()?
        .filter(|state| state.stage() != Stage::New)
        .ok_or(EnrollError::NotRegistered)?;
    state.api_key = Some(api_key);
    dir.save(&state)?;
    let proved = prove(&state).await;
    // Any other failure says nothing about the key.
    if let Err(EnrollError::Session(SessionError::KeyRefused)) = proved {
        state.api_key = None;
        dir.save(&state)?;
    }
    proved
}

/// The answer to a node that asks for its API key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyFetch {
    /// No operator has confirmed the node yet: ask again after [`fleet_core::limits::KEY_FETCH_EVERY`].
    AwaitingConfirmation,
    /// The key was fetched, saved and proved.
    Enrolled,
    /// The operator received the key: pass it to [`finish`].
    Pasted,
    /// The server cannot give the key, or is an upstream one: wait for the operator's key.
    Unsupported,
}

/// Asks the server for the API key of a registered node, and finishes the enrollment with it. The request is signed by
/// the identity key, and the key comes sealed to the encryption key. `sequence` is higher than in every earlier
/// request, such as the time in microseconds.
///
/// # Errors
///
/// [`EnrollError`]. After [`EnrollError::Refused`], asking again does not help. Other failures may end.
pub async fn fetch_key(dir: &StateDir, sequence: i64) -> Result<KeyFetch, EnrollError> {
    let state = dir.load()?.ok_or(EnrollError::NotRegistered)?;
    let Some(id) = state.fleet_node_id else {
        return Err(EnrollError::NotRegistered);
    };
    if state.upstream_server {
        return Ok(KeyFetch::Unsupported);
    }
    let statement = key_statement(NodeId(id), sequence);
    let signature = SigningKey::from_bytes(state.identity_key.expose()).sign(&statement);
    let request = FetchNodeKeyRequest {
        fleet_node_id: id,
        sequence,
        signature: signature.to_bytes().to_vec().into(),
    };
    let keys = NodeKeyClient::new(channel(&state)?);
    let answer = match keys.fetch_node_key(&request, CallOptions::new()).await {
        // An older server does not know the call.
        Err(error) if error.code == Code::Unimplemented => return Ok(KeyFetch::Unsupported),
        Err(source) => return Err(key_refused(source)),
        Ok(answer) => answer,
    };
    match answer.state() {
        NodeKeyState::AwaitingConfirmation => Ok(KeyFetch::AwaitingConfirmation),
        NodeKeyState::Pasted => Ok(KeyFetch::Pasted),
        NodeKeyState::Unspecified => Ok(KeyFetch::Unsupported),
        NodeKeyState::Fetched => {
            let sealed = &answer.sealed_key;
            let key = seal::open_api_key(state.encryption_key.expose(), &statement, sealed)
                .map_err(|_| EnrollError::Unsealed)?;
            Secret::parse(SecretKind::NodeKey, &key).map_err(|_| EnrollError::Unsealed)?;
            finish(dir, SecretText::new(key.to_string())).await?;
            Ok(KeyFetch::Enrolled)
        }
    }
}

fn key_refused(source: RpcError) -> EnrollError {
    // An earlier process asked with a clock that was ahead. A later request may have a higher number.
    let is_repeated = source.reason().as_deref() == Some("KEY_REQUEST_REPEATED");
    let is_final = matches!(
        source.code,
        Code::Unauthenticated | Code::FailedPrecondition | Code::InvalidArgument
    );
    if is_repeated || !is_final {
        return EnrollError::NotFetched(source);
    }
    let advice = "the server does not give this node its API key; have the operator revoke the node, then run `fleetnode unenroll` and enroll it with a new code";
    EnrollError::Refused { advice, source }
}

/// Proves the saved API key by a handshake.
///
/// # Errors
///
/// [`EnrollError::NotRegistered`] or [`SessionError::NoKey`] if the enrollment is not that far; otherwise the failure
/// of the handshake. The state does not change.
pub async fn refresh(dir: &StateDir) -> Result<(), EnrollError> {
    let state = dir
        .load()?
        .filter(|state| state.stage() != Stage::New)
        .ok_or(EnrollError::NotRegistered)?;
    prove(&state).await
}

/// Fails if the node is registered already.
pub(crate) fn refuse_registered(dir: &StateDir) -> Result<(), EnrollError> {
    match dir.load()? {
        Some(StateFile {
            name,
            fleet_node_id: Some(fleet_node_id),
            ..
        }) => Err(EnrollError::AlreadyRegistered {
            name,
            fleet_node_id,
            path: dir.path().to_owned(),
        }),
        Some(_) | None => Ok(()),
    }
}

/// Changes to an enrollment. Unset values stay as they are.
#[derive(Clone, Debug, Default)]
pub struct ConfigureOptions {
    /// The new URL of the server.
    pub server_url: Option<String>,
    /// A file of CA certificates to trust instead of the current ones. The state folder keeps a copy.
    pub ca_file: Option<PathBuf>,
    /// Allow plain HTTP to another machine.
    pub allow_insecure_transport: bool,
}

/// Changes how the server is reached, after its address or certificate has changed. Keys and enrollment stay. The saved
/// API key is proved at the new address first.
///
/// # Errors
///
/// [`EnrollError`]: nothing is saved.
pub async fn configure(dir: &StateDir, options: ConfigureOptions) -> Result<(), EnrollError> {
    let mut state = dir
        .load()?
        .filter(|state| state.stage() != Stage::New)
        .ok_or(EnrollError::NotRegistered)?;
    if let Some(server_url) = options.server_url {
        state.server_url = server_url;
        // The permission was given for the previous address.
        state.allow_insecure_transport = false;
    }
    let new_ca = options.ca_file.is_some();
    state.ca_file = options.ca_file.or(state.ca_file);
    state.allow_insecure_transport |= options.allow_insecure_transport;
    match state.stage() {
        Stage::Enrolled => prove(&state).await?,
        // Without a key there is nothing to prove. This checks the URL and the certificates.
        Stage::New | Stage::Registered => drop(client(&state)?),
    }
    // The copy in the folder is replaced only after the new certificates have worked.
    if let Some(ca) = state.ca_file.as_ref().filter(|_| new_ca) {
        state.ca_file = Some(dir.keep_ca(ca)?);
    }
    Ok(dir.save(&state)?)
}

async fn prove(state: &StateFile) -> Result<(), EnrollError> {
    session::open(&client(state)?, state, ServerClock::default()).await?;
    Ok(())
}

fn client(state: &StateFile) -> Result<FleetNodeGatewayClient, TransportError> {
    channel(state).map(FleetNodeGatewayClient::new)
}

fn channel(state: &StateFile) -> Result<Channel, TransportError> {
    transport::open(ServerAddress {
        url: &state.server_url,
        ca_file: state.ca_file.as_ref(),
        allow_insecure: state.allow_insecure_transport,
    })
}

fn new_key() -> Result<SecretKey, EnrollError> {
    let mut bytes = zeroize::Zeroizing::new([0; 32]);
    getrandom::fill(bytes.as_mut()).map_err(EnrollError::Random)?;
    Ok(SecretKey::new(*bytes))
}

fn refused(source: RpcError) -> EnrollError {
    // rustls reports a certificate that it does not trust only in the text of the connection error.
    if source.code == Code::Unavailable && source.message.contains("certificate") {
        let advice = "the server's certificate is not trusted; pass its CA certificate with --ca, and check --server-url";
        return EnrollError::Refused { advice, source };
    }
    let advice = match source.code {
        Code::Unauthenticated => {
            "the server rejects this enrollment code; codes expire after one hour and work once, so create a new one"
        }
        Code::FailedPrecondition | Code::AlreadyExists => {
            "the server cannot register this node; choose another --name, or revoke the node that has it; the code is still valid"
        }
        Code::InvalidArgument => "the server rejects this registration; check the code and --name",
        Code::ResourceExhausted => {
            "the server limits registrations from this address; wait a minute, then retry with the same code"
        }
        Code::Unimplemented | Code::NotFound => {
            "no server at this address accepts registrations; check --server-url"
        }
        Code::Canceled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::PermissionDenied
        | Code::Aborted
        | Code::OutOfRange
        | Code::Internal
        | Code::Unavailable
        | Code::DataLoss => {
            "the server could not be reached; check --server-url and that the server is running, then retry with the same code"
        }
    };
    EnrollError::Refused { advice, source }
}
