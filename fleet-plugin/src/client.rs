//! Calls to one running plugin. Start with [`PluginClient::connect`].

use std::{mem, sync::Arc, time::Duration};

use fleet_core::{Endpoint, Port};
use fleet_scan::Login;
use fleet_wire::{
    Code, Empty, Protocol, RpcError,
    client::{CallOptions, Channel, ChannelConfig, ChannelError},
    plugin::{GrpcControllerClient, GrpcStdioClient},
    sdk::{
        DeviceInfo, DiscoverDeviceRequest, DriverClient, GetDefaultCredentialsRequest,
        PairDeviceRequest, SecretBundle, UsernamePassword, secret_bundle::Kind,
    },
};

use crate::{answer, handshake::Address};

/// Time limit of the first calls. The plugin listens already when they start.
const GREETING: Duration = Duration::from_secs(10);
/// Largest accepted message of a plugin, in bytes. A device has eight short texts.
const ANSWER: usize = 64 * 1_024;
/// Time limit of a liveness check after a failed call.
const LIVENESS_TIMEOUT: Duration = Duration::from_secs(2);

/// The connection to a plugin that has identified itself.
#[derive(Debug)]
pub(crate) struct PluginClient {
    /// The name of its driver, checked for reports.
    pub(crate) driver: Arc<str>,
    /// The default ports of its devices.
    pub(crate) ports: Vec<Port>,
    client: DriverClient,
    channel: Channel,
}

impl PluginClient {
    /// Connects to a plugin and requests its driver name and ports. Cancel-safe.
    ///
    /// # Errors
    ///
    /// A sentence about why the plugin cannot be used.
    pub(crate) async fn connect(address: &Address) -> Result<Self, String> {
        let channel =
            open(address).map_err(|error| format!("it cannot be connected to: {error}"))?;
        let client = DriverClient::new(channel.clone());
        let options = || CallOptions::new().timeout(GREETING);
        let failed = |call: &str, error: &RpcError| {
            let message = answer::error(&error.message);
            format!("it does not answer {call}: {}: {message}", error.code)
        };
        let who = client
            .handshake(&Empty {}, options())
            .await
            .map_err(|error| failed("Handshake", &error))?;
        let driver = answer::driver_name(&who.driver_name)?.into();
        let ports = match client.get_discovery_ports(&Empty {}, options()).await {
            Ok(info) => answer::ports(&info.ports),
            Err(error) if error.code == Code::Unimplemented => Vec::new(),
            Err(error) => return Err(failed("GetDiscoveryPorts", &error)),
        };
        Ok(Self {
            driver,
            ports,
            client,
            channel,
        })
    }

    /// Requests the device at an endpoint. Returns none if the answer contains no device.
    ///
    /// # Errors
    ///
    /// The plugin's error, or the failure of the call.
    pub(crate) async fn discover(
        &self,
        endpoint: Endpoint,
        timeout: Duration,
    ) -> Result<Option<DeviceInfo>, RpcError> {
        let request = DiscoverDeviceRequest {
            ip_address: endpoint.ip.to_string(),
            port: endpoint.port.to_string(),
        };
        let options = CallOptions::new().timeout(timeout);
        let answer = self.client.discover_device(&request, options).await?;
        Ok(answer.device)
    }

    /// Logs in to a device.
    ///
    /// # Errors
    ///
    /// The plugin's error, or the failure of the call.
    pub(crate) async fn pair(
        &self,
        device: &DeviceInfo,
        login: &Login,
        timeout: Duration,
    ) -> Result<Option<DeviceInfo>, RpcError> {
        let request = PairDeviceRequest {
            device: Some(device.clone()),
            access: Some(SecretBundle {
                version: "v1".to_owned(),
                kind: Some(Kind::UserPass(UsernamePassword {
                    username: login.username().to_owned(),
                    password: login.password().to_owned(),
                })),
            }),
        };
        let options = CallOptions::new().timeout(timeout);
        let answer = self.client.pair_device(&request, options).await?;
        Ok(answer.device)
    }

    /// Requests the logins that such devices are delivered with.
    ///
    /// # Errors
    ///
    /// The plugin's error, or the failure of the call.
    pub(crate) async fn default_logins(
        &self,
        device: &DeviceInfo,
        timeout: Duration,
    ) -> Result<Vec<Login>, RpcError> {
        let request = GetDefaultCredentialsRequest {
            manufacturer: device.manufacturer.clone(),
            firmware_version: device.firmware_version.clone(),
        };
        let options = CallOptions::new().timeout(timeout);
        let answer = self
            .client
            .get_default_credentials(&request, options)
            .await?;
        let logins = answer.credentials.into_iter();
        // Moved and not copied, so that dropping the logins wipes the decoder's own allocations.
        Ok(logins
            .map(|mut login| {
                Login::new(
                    mem::take(&mut login.username),
                    mem::take(&mut login.password),
                )
            })
            .collect())
    }

    /// Whether the plugin still answers. UNAVAILABLE can be its answer about a device, or mean that it has crashed.
    pub(crate) async fn is_alive(&self) -> bool {
        let options = CallOptions::new().timeout(LIVENESS_TIMEOUT);
        self.client.handshake(&Empty {}, options).await.is_ok()
    }

    /// Requests the plugin's shutdown.
    ///
    /// # Errors
    ///
    /// The plugin's error. Some plugins answer UNIMPLEMENTED.
    pub(crate) async fn shut_down(&self, timeout: Duration) -> Result<(), RpcError> {
        let controller = GrpcControllerClient::new(self.channel.clone());
        let options = CallOptions::new().timeout(timeout);
        controller.shutdown(&Empty {}, options).await.map(|_| ())
    }

    /// Passes on what the plugin prints through gRPC, until it ends. Returns at once if the plugin has no such stream.
    pub(crate) async fn forward_output(&self, mut each: impl FnMut(&[u8])) {
        let stdio = GrpcStdioClient::new(self.channel.clone());
        let Ok(mut output) = stdio.stream_stdio(&Empty {}, CallOptions::new()).await else {
            return;
        };
        while let Ok(Some(data)) = output.message().await {
            each(&data.data);
        }
    }
}

fn open(address: &Address) -> Result<Channel, ChannelError> {
    let config = ChannelConfig {
        connect_timeout: GREETING,
        call_timeout: GREETING,
        max_response: ANSWER,
        // gRPC servers close a connection that sends a PING more often than every five minutes. The end of the process is
        // detected without PINGs.
        keepalive_interval: None,
        protocol: Protocol::Grpc,
        ..ChannelConfig::default()
    };
    match address {
        Address::Tcp(address) => Channel::new(&format!("http://{address}"), &config),
        Address::Unix(path) => Channel::unix(path, &config),
    }
}
