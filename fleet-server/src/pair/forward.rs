//! Passing a pairing on to the server that holds the node's stream. Its credentials are sealed to a key that exists only
//! in the memory of that server's process, so neither the database nor its backups can ever reveal them.
//! [Decision 0041](../../../docs/decisions/0041-forwarded-pairings.md). Read [`ForwardKey`] first.

use std::{fmt, sync::Arc};

use fleet_core::{NodeId, PairingId, ReplicaId, outcome::Code};
use fleet_store::{ForwardedCredentials, ForwardedPairing, StoreError};
use fleet_wire::{Message as _, pairing::Credentials};
use hpke::{
    Deserializable, HpkeError, Kem as _, OpModeR, OpModeS, Serializable, aead::ChaCha20Poly1305,
    kdf::HkdfSha256, kem::X25519HkdfSha256,
};
use zeroize::Zeroizing;

use super::sender::Sender;
use crate::{app::App, credentials::PairCredentials};

type Kem = X25519HkdfSha256;

/// Separates forwarded credentials from other uses of HPKE.
const PURPOSE: &[u8] = b"fleet forwarded pairing 1";
/// Bytes of the ephemeral key at the start of a sealed value.
const EPHEMERAL: usize = 32;

/// The key of one server process for the credentials that other servers forward to it.
pub(crate) struct ForwardKey {
    private: <Kem as hpke::Kem>::PrivateKey,
    public: [u8; 32],
}

impl ForwardKey {
    /// Derives the key pair from random bytes.
    pub(crate) fn new(random: &Zeroizing<[u8; 32]>) -> Self {
        let (private, public) = Kem::derive_keypair(random.as_slice());
        Self {
            private,
            public: public.to_bytes().into(),
        }
    }

    /// The key that other servers seal to.
    pub(crate) fn public(&self) -> [u8; 32] {
        self.public
    }

    fn open(
        &self,
        pairing: PairingId,
        node: NodeId,
        sealed: &[u8],
    ) -> Result<PairCredentials, HpkeError> {
        let (ephemeral, sealed) = sealed
            .split_at_checked(EPHEMERAL)
            .ok_or(HpkeError::OpenError)?;
        let opened = hpke::single_shot_open::<ChaCha20Poly1305, HkdfSha256, Kem>(
            &OpModeR::Base,
            &self.private,
            &<Kem as hpke::Kem>::EncappedKey::from_bytes(ephemeral)?,
            PURPOSE,
            sealed,
            &purpose_of(pairing, node),
        )?;
        let opened = Zeroizing::new(opened);
        let credentials = Credentials::decode(opened.as_slice());
        let credentials = credentials.map_err(|_| HpkeError::OpenError)?;
        Ok(PairCredentials::take(Some(credentials)))
    }
}

impl fmt::Debug for ForwardKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ForwardKey(..)")
    }
}

/// Binds a sealed value to its pairing: moved to another row, it cannot be opened.
fn purpose_of(pairing: PairingId, node: NodeId) -> Vec<u8> {
    format!("{pairing} {node}").into_bytes()
}

/// Another server that holds the node's stream.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) replica: ReplicaId,
    pub(super) key: [u8; 32],
}

/// Seals the credentials of a pairing to the server that holds the node's stream.
pub(super) fn seal(
    holder: Holder,
    pairing: PairingId,
    node: NodeId,
    credentials: &PairCredentials,
) -> Result<ForwardedCredentials, HpkeError> {
    let key = <Kem as hpke::Kem>::PublicKey::from_bytes(&holder.key)?;
    let message = credentials.to_wire().unwrap_or_default();
    let text = Zeroizing::new(message.encode_to_vec());
    drop(PairCredentials::take(Some(message)));
    let (ephemeral, mut sealed) = hpke::single_shot_seal::<ChaCha20Poly1305, HkdfSha256, Kem>(
        &OpModeS::Base,
        &key,
        PURPOSE,
        &text,
        &purpose_of(pairing, node),
    )?;
    let mut whole = ephemeral.to_bytes().to_vec();
    whole.append(&mut sealed);
    Ok(ForwardedCredentials {
        replica: holder.replica,
        sealed: whole,
    })
}

/// Takes the pairings that other servers forwarded to this one, and begins to send them.
pub(crate) async fn take(app: &Arc<App>) -> Result<(), StoreError> {
    let now = app.environment.now();
    for forwarded in app.store.take_forwarded(app.replica, now).await? {
        let ForwardedPairing {
            pairing,
            node,
            parts,
            sealed,
        } = forwarded;
        match app.forward_key.open(pairing, node, &sealed) {
            Ok(credentials) => {
                let sender = Sender {
                    app: Arc::clone(app),
                    pairing,
                    node,
                    unsent: parts,
                    credentials,
                };
                app.tasks.spawn(sender.run());
            }
            Err(error) => {
                tracing::warn!(%pairing, %node, %error, "the credentials of a pairing cannot be opened");
                let why = "the server that holds the node's stream cannot open its credentials: run it again".to_owned();
                let ended = app.store.end_pairing(pairing, Code::Internal, why, now);
                // Others that were taken must still be sent. This one ends with its lease.
                if let Err(error) = ended.await {
                    tracing::warn!(%pairing, %error, "a pairing without credentials could not be ended");
                }
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use fleet_core::Timestamp;

    use super::*;

    fn pairing(n: u8) -> PairingId {
        PairingId::new(Timestamp::from_micros(0), [n; 10])
    }

    #[test]
    fn only_the_holder_opens_credentials_and_only_for_their_pairing() {
        let keys = [7, 8].map(|n| ForwardKey::new(&Zeroizing::new([n; 32])));
        let holder = Holder {
            replica: ReplicaId([1; 16]),
            key: keys[0].public(),
        };
        for (username, password) in [("", None), ("root", None), ("root", Some("correct horse"))] {
            let given = PairCredentials::take(Some(Credentials {
                username: username.to_owned(),
                password: password.map(str::to_owned),
                try_defaults: password.is_none(),
            }));
            let node = NodeId(1);
            let forwarded = seal(holder, pairing(1), node, &given).expect("sealed");
            let sealed = forwarded.sealed;
            for secret in ["root", "correct horse"] {
                let shown = |bytes: &[u8]| {
                    bytes
                        .windows(secret.len())
                        .any(|window| window == secret.as_bytes())
                };
                assert!(!shown(&sealed));
            }
            let opened = keys[0].open(pairing(1), node, &sealed).expect("opened");
            assert_eq!(opened.tries_defaults(), password.is_none());
            assert_eq!(opened.to_wire(), given.to_wire());
            assert!(keys[1].open(pairing(1), node, &sealed).is_err());
            assert!(keys[0].open(pairing(2), node, &sealed).is_err());
            assert!(keys[0].open(pairing(1), NodeId(2), &sealed).is_err());
            assert!(keys[0].open(pairing(1), node, &sealed[..20]).is_err());
        }
    }
}
