//! One control stream in a task of its own. Start with [`ControlStream::open`].

use std::panic::AssertUnwindSafe;

use fleet_registry::link::{Attempt, StreamEnd};
use fleet_wire::{
    Code, RpcError, Validate,
    client::CallOptions,
    gateway::{
        ControlHello, ControlStreamRequest, FleetNodeGatewayClient, control_stream_request,
        control_stream_response,
    },
};
use futures::FutureExt;
use tokio::{sync::mpsc, task::AbortHandle};

use crate::session::Session;

/// Messages that may wait to be sent: every ack that a link keeps, and progress.
const OUTBOUND: usize = 256;

/// A stream that is being opened or held. Dropping it ends the stream at once.
#[derive(Debug)]
pub(super) struct ControlStream {
    pub(super) attempt: Attempt,
    outbound: Option<mpsc::Sender<ControlStreamRequest>>,
    task: AbortHandle,
}

/// What is heard of a stream; the end is the last.
#[derive(Debug)]
pub(super) enum Heard {
    Message(Option<control_stream_response::Kind>),
    Ended(StreamEnd),
}

/// The stream takes no more: it is over, or the server does not read.
#[derive(Debug)]
pub(super) struct Stuck;

impl ControlStream {
    /// Opens a stream and says Hello; everything else is told through `heard`.
    pub(super) fn open(
        client: &FleetNodeGatewayClient,
        session: &Session,
        attempt: Attempt,
        hello: ControlHello,
        heard: mpsc::Sender<(Attempt, Heard)>,
    ) -> Self {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let (client, options) = (client.clone(), session.options());
        let task = tokio::spawn(async move {
            let stream = hold(client, options, hello, attempt, messages, &heard);
            let end = AssertUnwindSafe(stream)
                .catch_unwind()
                .await
                .unwrap_or(StreamEnd::Lost);
            // Nobody listens when the agent is gone; then nobody cares.
            let _ = heard.send((attempt, Heard::Ended(end))).await;
        });
        Self {
            attempt,
            outbound: Some(outbound),
            task: task.abort_handle(),
        }
    }

    /// Sends a message.
    pub(super) fn send(&self, kind: control_stream_request::Kind) -> Result<(), Stuck> {
        let outbound = self.outbound.as_ref().ok_or(Stuck)?;
        outbound
            .try_send(ControlStreamRequest { kind: Some(kind) })
            .map_err(|_| Stuck)
    }

    /// Sends a message that may be left out when others wait.
    pub(super) fn offer(&self, kind: control_stream_request::Kind) {
        if let Some(outbound) = self
            .outbound
            .as_ref()
            .filter(|outbound| outbound.capacity() > OUTBOUND / 2)
        {
            let _ = outbound.try_send(ControlStreamRequest { kind: Some(kind) });
        }
    }

    /// Says that nothing more will be sent. What waits is sent first; the server ends the stream then.
    pub(super) fn close(&mut self) {
        self.outbound = None;
    }
}

impl Drop for ControlStream {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn hold(
    client: FleetNodeGatewayClient,
    options: CallOptions,
    hello: ControlHello,
    attempt: Attempt,
    mut messages: mpsc::Receiver<ControlStreamRequest>,
    heard: &mpsc::Sender<(Attempt, Heard)>,
) -> StreamEnd {
    let (mut up, mut down) = match client.control_stream(options).await {
        Ok(halves) => halves,
        Err(error) => return end_of(&error),
    };
    let write = async move {
        let hello = ControlStreamRequest {
            kind: Some(control_stream_request::Kind::Hello(hello)),
        };
        let mut sent = up.send(&hello).await;
        while sent.is_ok()
            && let Some(message) = messages.recv().await
        {
            sent = up.send(&message).await;
        }
    };
    let read = async {
        loop {
            match down.message().await {
                Ok(Some(message)) => match message.validate() {
                    Ok(()) => {
                        if heard
                            .send((attempt, Heard::Message(message.kind)))
                            .await
                            .is_err()
                        {
                            break StreamEnd::Lost;
                        }
                    }
                    Err(broken) => tracing::warn!(%broken, "dropped a message of the server"),
                },
                Ok(None) => break StreamEnd::Lost,
                Err(error) => break end_of(&error),
            }
        }
    };
    tokio::pin!(write, read);
    tokio::select! {
        end = &mut read => end,
        // The reading half says why.
        () = &mut write => read.await,
    }
}

fn end_of(error: &RpcError) -> StreamEnd {
    tracing::debug!(%error, "the control stream ended");
    let limited = error
        .retry_after()
        .filter(|_| error.code == Code::ResourceExhausted);
    if let Some(retry_after) = limited {
        StreamEnd::Limited { retry_after }
    } else if error.is_not_active() {
        StreamEnd::NotActive
    } else if error.code == Code::NotFound {
        StreamEnd::NodeUnknown
    } else if error.code == Code::Unauthenticated {
        StreamEnd::Unauthenticated
    } else if error.code == Code::Unimplemented {
        StreamEnd::Unimplemented
    } else {
        StreamEnd::Lost
    }
}
