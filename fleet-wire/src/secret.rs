//! The messages that carry secrets: their `Debug` shows lengths instead of texts, and the login for a plugin is wiped.

use std::fmt;

use zeroize::Zeroize;

use crate::generated::{
    fleet::v1 as fleet, fleetnodeadmin::v1 as admin, fleetnodegateway::v1 as gateway,
    pairing::v1 as pairing, sdk::v1 as sdk,
};

/// Stands for a secret: shows how long it is.
struct Hidden(usize);

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "<hidden, {} bytes>", self.0)
    }
}

/// Writes `Debug` for a message: first the fields that may be seen, then those that may not.
macro_rules! debug {
    ($message:ty, [$($shown:ident),*], [$($hidden:ident),*]) => {
        impl fmt::Debug for $message {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.debug_struct(stringify!($message))
                    $(.field(stringify!($shown), &self.$shown))*
                    $(.field(stringify!($hidden), &Hidden(self.$hidden.len())))*
                    .finish()
            }
        }
    };
}

debug!(
    gateway::RegisterRequest,
    [name, identity_pubkey, encryption_pubkey, identity_proof],
    [enrollment_token]
);
debug!(
    gateway::BeginAuthHandshakeRequest,
    [identity_pubkey],
    [api_key]
);
debug!(
    gateway::CompleteAuthHandshakeRequest,
    [],
    [challenge, signature]
);
debug!(
    gateway::CompleteAuthHandshakeResponse,
    [expires_at],
    [session_token]
);
debug!(gateway::EncryptedCredentials, [], [username, password]);
debug!(gateway::ControlCommand, [command_id], [payload]);
debug!(
    admin::CreateEnrollmentCodeResponse,
    [expires_at, pending_enrollment_id],
    [code]
);
debug!(admin::ConfirmFleetNodeResponse, [expires_at], [api_key]);
debug!(fleet::CreateKeyResponse, [key_id, expires_at], [key]);
debug!(
    fleet::RotateKeyResponse,
    [key_id, old_key_expires_at],
    [key]
);
debug!(
    fleet::CreateOperatorResponse,
    [operator_id, expires_at],
    [one_time_password]
);
debug!(
    fleet::ResetOperatorPasswordResponse,
    [expires_at],
    [one_time_password]
);
debug!(
    fleet::ChangePasswordRequest,
    [],
    [current_password, new_password]
);
// The path or query of a webhook's URL can be a secret.
debug!(
    fleet::CreateAlertChannelRequest,
    [name, email],
    [webhook_url]
);
debug!(
    fleet::CreateAlertChannelResponse,
    [channel],
    [signing_secret]
);
debug!(sdk::UsernamePassword, [], [username, password]);

impl fmt::Debug for pairing::Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials")
            .field("username", &Hidden(self.username.len()))
            .field("password", &self.password.as_ref().map(|p| Hidden(p.len())))
            .field("try_defaults", &self.try_defaults)
            .finish()
    }
}

/// A plugin's login is overwritten when it is dropped. Other messages with passwords are taken apart by their receivers,
/// which wipe the parts.
impl Drop for sdk::UsernamePassword {
    fn drop(&mut self) {
        self.username.zeroize();
        self.password.zeroize();
    }
}
