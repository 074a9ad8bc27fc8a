//! A plugin as a driver of the scanner. Start with [`PluginDriver`].

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Port};
use fleet_scan::{
    Answer, Authenticated, BoxFuture, DefaultPassword, Driver, DriverError, Login, Probe,
};
use fleet_wire::{Code, RpcError, sdk::DeviceInfo};
use tokio::sync::Semaphore;

use crate::{answer, client::PluginClient, plugin::Plugin};

/// Concurrent calls to one plugin. An upstream node makes as many.
const AT_ONCE: usize = 32;
/// Default logins that are tried at one device. More could lock its account.
const DEFAULT_LOGINS: usize = 3;

/// A scanner driver that forwards to a plugin. The plugin dials the devices itself.
#[derive(Debug)]
pub(crate) struct PluginDriver {
    name: String,
    plugin: Arc<Plugin>,
    permits: Semaphore,
    timeout: Duration,
    pair_timeout: Duration,
    /// Whether pairing without a login may try the plugin's default logins.
    default_logins: bool,
    asks_silent: bool,
}

impl PluginDriver {
    /// Creates the driver of a plugin. `timeout` bounds each call.
    pub(crate) fn new(plugin: Arc<Plugin>, timeout: Duration, default_logins: bool) -> Self {
        Self {
            name: format!("plugin:{}", plugin.name()),
            plugin,
            permits: Semaphore::new(AT_ONCE),
            timeout,
            pair_timeout: timeout,
            default_logins,
            asks_silent: false,
        }
    }

    /// Sets the time limit of one call that pairs a device.
    pub(crate) fn pairing_within(self, pair_timeout: Duration) -> Self {
        Self {
            pair_timeout,
            ..self
        }
    }

    /// Sets whether the plugin is asked about listed addresses at which no port answered.
    pub(crate) fn asking_silent(self, asks_silent: bool) -> Self {
        Self {
            asks_silent,
            ..self
        }
    }

    async fn identify_device(&self, probe: &mut Probe<'_>) -> Result<Answer, DriverError> {
        // The plugin opens its own connection, and some devices accept only one at a time.
        probe.close();
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let client = self.plugin.client().map_err(DriverError::Unusable)?;
        match client.discover(probe.endpoint(), self.timeout).await {
            Ok(info) => {
                self.plugin.record_answer();
                let info = info.ok_or_else(unknown_device)?;
                let device = self.identification(&client, &info);
                Ok(Answer::Named(Box::new(device)))
            }
            Err(error) => self.interpret(&client, error).await,
        }
    }

    /// Pairs a device with a login, or with the plugin's default logins in their order.
    async fn log_in(
        &self,
        probe: &mut Probe<'_>,
        login: Option<&Login>,
    ) -> Result<Authenticated, DriverError> {
        probe.close();
        let _permit = self.permits.acquire().await.map_err(closed)?;
        let client = self.plugin.client().map_err(DriverError::Unusable)?;
        // Another driver may have identified the device. The plugin must recognize it too before it receives a password,
        // and gets its own description back: it may spell models differently and use another port.
        let device = match client.discover(probe.endpoint(), self.timeout).await {
            Ok(device) => device.ok_or_else(unknown_device)?,
            Err(error) => return self.failed(&client, error).await,
        };
        if let Some(login) = login {
            return self.pair(&client, &device, login).await;
        }
        if !self.default_logins {
            return Ok(Authenticated::Wanted);
        }
        let defaults = client.default_logins(&device, self.timeout).await;
        for login in defaults.unwrap_or_default().iter().take(DEFAULT_LOGINS) {
            match self.pair(&client, &device, login).await? {
                Authenticated::Accepted {
                    default_password,
                    device,
                } => {
                    return Ok(Authenticated::Accepted {
                        // The plugin may not report it, but a default login has just worked.
                        default_password: default_password
                            .or(Some(DefaultPassword::Inferred(true))),
                        device,
                    });
                }
                Authenticated::Refused => {}
                other @ (Authenticated::Open
                | Authenticated::Unprovable
                | Authenticated::Wanted
                | Authenticated::Unsupported) => return Ok(other),
            }
        }
        Ok(Authenticated::Wanted)
    }

    async fn pair(
        &self,
        client: &PluginClient,
        device: &DeviceInfo,
        login: &Login,
    ) -> Result<Authenticated, DriverError> {
        match client.pair(device, login, self.pair_timeout).await {
            Ok(info) => {
                let info = info.unwrap_or_default();
                Ok(Authenticated::Accepted {
                    default_password: info.default_password_active.map(DefaultPassword::Reported),
                    device: Box::new(self.identification(client, &info)),
                })
            }
            Err(error) if matches!(error.code, Code::Unauthenticated | Code::PermissionDenied) => {
                Ok(Authenticated::Refused)
            }
            Err(error) if error.code == Code::Unimplemented => Ok(Authenticated::Unsupported),
            Err(error) if error.code == Code::DeadlineExceeded => {
                Err(self.no_answer(self.pair_timeout))
            }
            Err(error) => self.failed(client, error).await,
        }
    }

    /// Interprets the error of a call about a device that the plugin should know.
    async fn failed(
        &self,
        client: &PluginClient,
        error: RpcError,
    ) -> Result<Authenticated, DriverError> {
        self.interpret(client, error)
            .await
            .and(Err(unknown_device()))
    }

    /// Records that the plugin did not answer within this limit.
    fn no_answer(&self, limit: Duration) -> DriverError {
        self.plugin.record_timeout();
        DriverError::Unusable(format!("gave no answer within {} s", limit.as_secs()))
    }

    fn identification(&self, client: &PluginClient, info: &DeviceInfo) -> DeviceFacts {
        answer::identification(self.plugin.name(), &client.driver, info)
    }

    /// Interprets an error: the device is not the plugin's, or it did not answer the plugin as expected, or the
    /// plugin itself does not work.
    async fn interpret(
        &self,
        client: &PluginClient,
        error: RpcError,
    ) -> Result<Answer, DriverError> {
        let unusable = |what: String| Err(DriverError::Unusable(what));
        if error.code == Code::DeadlineExceeded {
            return Err(self.no_answer(self.timeout));
        }
        let may_have_crashed = matches!(error.code, Code::Unavailable | Code::Internal);
        if may_have_crashed && !client.is_alive().await {
            return unusable("crashed".to_owned());
        }
        self.plugin.record_answer();
        let RpcError { code, message, .. } = error;
        if matches!(code, Code::NotFound | Code::Unimplemented) {
            Ok(Answer::Foreign)
        } else if code == Code::Unauthenticated {
            let evidence = format!("plugin {}: it requires a login", self.plugin.name());
            Ok(Answer::Unidentified { evidence })
        } else if matches!(code, Code::Internal | Code::ResourceExhausted) {
            // The response was too large, or not a valid message.
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

    /// The lowest precedence, below all built-in drivers.
    fn precedence(&self) -> u8 {
        0
    }

    fn is_external(&self) -> bool {
        true
    }

    fn asks_silent(&self) -> bool {
        self.asks_silent
    }

    fn trouble(&self) -> Option<String> {
        self.plugin.client().err()
    }

    fn identify<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
    ) -> BoxFuture<'a, Result<Answer, DriverError>> {
        Box::pin(self.identify_device(probe))
    }

    fn owns(&self, driver: &str) -> bool {
        let client = self.plugin.client();
        client.is_ok_and(|client| *client.driver == *driver)
    }

    fn login_port(&self, device: &DeviceFacts, at: Port) -> Option<Port> {
        let client = self.plugin.client().ok()?;
        (*device.driver == *client.driver).then_some(at)
    }

    fn authenticate<'a>(
        &'a self,
        probe: &'a mut Probe<'_>,
        device: &'a DeviceFacts,
        login: Option<&'a Login>,
    ) -> BoxFuture<'a, Result<Authenticated, DriverError>> {
        // The plugin gets its own description of the device, see `log_in`.
        let _ = device;
        Box::pin(self.log_in(probe, login))
    }
}

fn unknown_device() -> DriverError {
    DriverError::Protocol("the plugin does not recognize the device".to_owned())
}

fn closed(_: tokio::sync::AcquireError) -> DriverError {
    DriverError::Unusable("is stopped".to_owned())
}
