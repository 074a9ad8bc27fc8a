//! A plugin as a driver of the scanner. Start with [`PluginDriver`].

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Port};
use fleet_scan::{Answer, Authenticated, BoxFuture, Driver, DriverError, Login, Probe};
use fleet_wire::{Code, RpcError, sdk::DeviceInfo};
use tokio::sync::Semaphore;

use crate::{answer, client::Live, plugin::Plugin};

/// Questions to one plugin at a time; upstream nodes ask as many.
const AT_ONCE: usize = 32;

/// Asks a plugin, as a driver that dials by itself.
#[derive(Debug)]
pub(crate) struct PluginDriver {
    name: String,
    plugin: Arc<Plugin>,
    turns: Semaphore,
    most: Duration,
}

impl PluginDriver {
    /// Asks `plugin`, and waits at most so long for an answer.
    pub(crate) fn new(plugin: Arc<Plugin>, most: Duration) -> Self {
        Self {
            name: format!("plugin:{}", plugin.name()),
            plugin,
            turns: Semaphore::new(AT_ONCE),
            most,
        }
    }

    async fn ask(&self, probe: &mut Probe<'_>) -> Result<Answer, DriverError> {
        // The plugin makes its own; some devices serve one at a time.
        probe.close();
        let _turn = self.turns.acquire().await.map_err(closed)?;
        let live = self.plugin.live().map_err(DriverError::Unusable)?;
        match live.discover(probe.endpoint(), self.most).await {
            Ok(said) => {
                self.plugin.heard();
                let said = said.ok_or_else(nothing)?;
                let device = self.identification(&live, &said);
                Ok(Answer::Named(Box::new(device)))
            }
            Err(error) => self.judge(&live, error).await,
        }
    }

    async fn log_in(
        &self,
        probe: &mut Probe<'_>,
        device: &DeviceFacts,
        login: Option<&Login>,
    ) -> Result<Authenticated, DriverError> {
        probe.close();
        let _turn = self.turns.acquire().await.map_err(closed)?;
        let live = self.plugin.live().map_err(DriverError::Unusable)?;
        let Some(login) = login else {
            return Ok(Authenticated::Wanted);
        };
        // Another driver may have named it: the plugin has to know it too before it gets a password.
        match live.discover(probe.endpoint(), self.most).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(nothing()),
            Err(error) => return self.judge(&live, error).await.and(Err(nothing())),
        }
        match live.pair(probe.endpoint(), device, login, self.most).await {
            Ok(said) => {
                let said = said.unwrap_or_default();
                Ok(Authenticated::Accepted {
                    default_password: said.default_password_active,
                    device: Box::new(self.identification(&live, &said)),
                })
            }
            Err(error) if matches!(error.code, Code::Unauthenticated | Code::PermissionDenied) => {
                Ok(Authenticated::Refused)
            }
            Err(error) if error.code == Code::Unimplemented => Ok(Authenticated::Unsupported),
            Err(error) => self.judge(&live, error).await.and(Err(nothing())),
        }
    }

    fn identification(&self, live: &Live, said: &DeviceInfo) -> DeviceFacts {
        answer::identification(self.plugin.name(), &live.driver, said)
    }

    /// What an error means: that the device is none of the plugin's, that it did not answer the plugin as it should,
    /// or that the plugin does not work.
    async fn judge(&self, live: &Live, error: RpcError) -> Result<Answer, DriverError> {
        let unusable = |what: String| Err(DriverError::Unusable(what));
        if error.code == Code::DeadlineExceeded {
            self.plugin.silent();
            return unusable(format!("gave no answer within {:?}", self.most));
        }
        let is_doubtful = matches!(error.code, Code::Unavailable | Code::Internal);
        if is_doubtful && !live.is_alive().await {
            return unusable("crashed".to_owned());
        }
        self.plugin.heard();
        let RpcError { code, message, .. } = error;
        if matches!(code, Code::NotFound | Code::Unimplemented) {
            Ok(Answer::Foreign)
        } else if code == Code::Unauthenticated {
            let evidence = format!("plugin {}: it wants a login", self.plugin.name());
            Ok(Answer::Stranger { evidence })
        } else if matches!(code, Code::Internal | Code::ResourceExhausted) {
            // Too large, or no message.
            unusable(format!("gave a bad answer ({code})"))
        } else {
            let message = answer::error(&message);
            Err(DriverError::Protocol(format!("{code}: {message}")))
        }
    }
}

impl Driver for PluginDriver {
    fn name(&self) -> &str {
        &self.name
    }

    fn default_ports(&self) -> Vec<Port> {
        self.plugin.ports()
    }

    /// Below all that is built in.
    fn precedence(&self) -> u8 {
        0
    }

    fn is_external(&self) -> bool {
        true
    }

    fn trouble(&self) -> Option<String> {
        self.plugin.live().err()
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(self.ask(probe))
    }

    fn login_port(&self, device: &DeviceFacts, at: Port) -> Option<Port> {
        let live = self.plugin.live().ok()?;
        (*device.driver == *live.driver).then_some(at)
    }

    fn authenticate<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
        device: &'a DeviceFacts,
        login: Option<&'a Login>,
    ) -> BoxFuture<'a, Result<Authenticated, DriverError>> {
        Box::pin(self.log_in(probe, device, login))
    }
}

fn nothing() -> DriverError {
    DriverError::Protocol("the plugin does not know the device".to_owned())
}

fn closed(_: tokio::sync::AcquireError) -> DriverError {
    DriverError::Unusable("is stopped".to_owned())
}
