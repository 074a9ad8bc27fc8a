//! The calls to one running plugin. Start with [`Live::greet`].

use std::{sync::Arc, time::Duration};

use fleet_core::{DeviceFacts, Endpoint, Port};
use fleet_scan::Login;
use fleet_wire::{
    Code, Empty, Protocol, RpcError,
    client::{CallOptions, Channel, ChannelConfig, ChannelError},
    plugin::{GrpcControllerClient, GrpcStdioClient},
    sdk::{
        DeviceInfo, DiscoverDeviceRequest, DriverClient, PairDeviceRequest, SecretBundle,
        UsernamePassword, secret_bundle::Kind,
    },
};

use crate::{answer, handshake::Address};

/// How long who a plugin is may take to say; it listens already.
const GREETING: Duration = Duration::from_secs(10);
/// Largest message taken from a plugin, in bytes: a device has eight short texts.
const ANSWER: usize = 64 * 1_024;
/// How long a plugin that failed a call may take to show that it is there.
const SIGN_OF_LIFE: Duration = Duration::from_secs(2);

/// A plugin that serves.
#[derive(Debug)]
pub(crate) struct Live {
    /// The name of its driver, as it may be reported.
    pub(crate) driver: Arc<str>,
    /// Where its devices listen.
    pub(crate) ports: Vec<Port>,
    client: DriverClient,
    channel: Channel,
}

impl Live {
    /// Connects to a plugin and asks who it is. Cancel-safe.
    ///
    /// # Errors
    ///
    /// Why it cannot be used, as a sentence about it.
    pub(crate) async fn greet(address: &Address) -> Result<Self, String> {
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
            Ok(said) => answer::ports(&said.ports),
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

    /// Asks what is at an endpoint; none when the answer names no device.
    ///
    /// # Errors
    ///
    /// What the plugin answered, or what kept the call from it.
    pub(crate) async fn discover(
        &self,
        endpoint: Endpoint,
        most: Duration,
    ) -> Result<Option<DeviceInfo>, RpcError> {
        let request = DiscoverDeviceRequest {
            ip_address: endpoint.ip.to_string(),
            port: endpoint.port.to_string(),
        };
        let options = CallOptions::new().timeout(most);
        let answer = self.client.discover_device(&request, options).await?;
        Ok(answer.device)
    }

    /// Logs in to a device.
    ///
    /// # Errors
    ///
    /// What the plugin answered, or what kept the call from it.
    pub(crate) async fn pair(
        &self,
        endpoint: Endpoint,
        device: &DeviceFacts,
        login: &Login,
        most: Duration,
    ) -> Result<Option<DeviceInfo>, RpcError> {
        let request = PairDeviceRequest {
            device: Some(answer::device_info(endpoint, device)),
            access: Some(SecretBundle {
                version: "v1".to_owned(),
                kind: Some(Kind::UserPass(UsernamePassword {
                    username: login.username().to_owned(),
                    password: login.password().to_owned(),
                })),
            }),
        };
        let options = CallOptions::new().timeout(most);
        let answer = self.client.pair_device(&request, options).await?;
        Ok(answer.device)
    }

    /// Whether the plugin still answers: UNAVAILABLE can be its word about a device, or its own end.
    pub(crate) async fn is_alive(&self) -> bool {
        let options = CallOptions::new().timeout(SIGN_OF_LIFE);
        self.client.handshake(&Empty {}, options).await.is_ok()
    }

    /// Asks the plugin to end.
    ///
    /// # Errors
    ///
    /// What the plugin answered: UNIMPLEMENTED from those that know no such request.
    pub(crate) async fn shut_down(&self, most: Duration) -> Result<(), RpcError> {
        let controller = GrpcControllerClient::new(self.channel.clone());
        let options = CallOptions::new().timeout(most);
        controller.shutdown(&Empty {}, options).await.map(|_| ())
    }

    /// Hands on what the plugin prints through gRPC, until it ends; at once where it does not do that.
    pub(crate) async fn read_prints(&self, mut each: impl FnMut(&[u8])) {
        let stdio = GrpcStdioClient::new(self.channel.clone());
        let Ok(mut prints) = stdio.stream_stdio(&Empty {}, CallOptions::new()).await else {
            return;
        };
        while let Ok(Some(data)) = prints.message().await {
            each(&data.data);
        }
    }
}

fn open(address: &Address) -> Result<Channel, ChannelError> {
    let config = ChannelConfig {
        connect_timeout: GREETING,
        call_timeout: GREETING,
        max_response: ANSWER,
        // Servers on the common gRPC libraries cut who sends a PING more often than every five minutes; the process's
        // end is seen without.
        keepalive_interval: None,
        protocol: Protocol::Grpc,
        ..ChannelConfig::default()
    };
    match address {
        Address::Tcp(address) => Channel::new(&format!("http://{address}"), &config),
        Address::Unix(path) => Channel::unix(path, &config),
    }
}
