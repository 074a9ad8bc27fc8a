//! A control stream in its own task. Start with [`ControlStream::open`].

use std::{panic::AssertUnwindSafe, time::Instant};

use fleet_core::limits::STREAM_OPENING;
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

/// Most queued outgoing messages: every ack that a link keeps, and progress.
const OUTBOUND: usize = 256;

/// An open or opening stream. Dropping it ends the stream at once.
#[derive(Debug)]
pub(super) struct ControlStream {
    pub(super) attempt: Attempt,
    outbound: Option<mpsc::Sender<ControlStreamRequest>>,
    task: AbortHandle,
    /// When it was opened; none after the server's answer to Hello.
    unanswered_since: Option<Instant>,
}

/// An event of a stream. `Ended` is the last one.
#[derive(Debug)]
pub(super) enum StreamEvent {
    Message(Option<control_stream_response::Kind>),
    Ended {
        end: StreamEnd,
        /// What happened, as a sentence for the log.
        reason: String,
    },
}

/// The stream cannot accept a message: it has ended, or the server does not read.
#[derive(Debug)]
pub(super) struct StreamBlocked;

impl ControlStream {
    /// Opens a stream and sends Hello. Events go to `events`.
    pub(super) fn open(
        client: &FleetNodeGatewayClient,
        session: &Session,
        attempt: Attempt,
        hello: ControlHello,
        events: mpsc::Sender<(Attempt, StreamEvent)>,
        now: Instant,
    ) -> Self {
        let (outbound, messages) = mpsc::channel(OUTBOUND);
        let (client, options) = (client.clone(), session.options());
        let task = tokio::spawn(async move {
            let stream = hold(client, options, hello, attempt, messages, &events);
            let ended = AssertUnwindSafe(stream).catch_unwind().await;
            let (end, reason) = ended.unwrap_or_else(|_| {
                let reason = "the task of the stream crashed".to_owned();
                (StreamEnd::Lost, reason)
            });
            // The receiver is gone if the agent has ended.
            let _ = events
                .send((attempt, StreamEvent::Ended { end, reason }))
                .await;
        });
        Self {
            attempt,
            outbound: Some(outbound),
            task: task.abort_handle(),
            unanswered_since: Some(now),
        }
    }

    /// Records the answer to Hello.
    pub(super) fn answered(&mut self) {
        self.unanswered_since = None;
    }

    /// Whether the server had the time to answer Hello and did not. Half of the link's limit is enough, since a server
    /// answers at once. The whole limit is never reached here: the link counts from an earlier moment.
    pub(super) fn is_unanswered(&self, now: Instant) -> bool {
        self.unanswered_since
            .is_some_and(|since| now.saturating_duration_since(since) >= STREAM_OPENING / 2)
    }

    /// Sends a message.
    pub(super) fn send(&self, kind: control_stream_request::Kind) -> Result<(), StreamBlocked> {
        let outbound = self.outbound.as_ref().ok_or(StreamBlocked)?;
        outbound
            .try_send(ControlStreamRequest { kind: Some(kind) })
            .map_err(|_| StreamBlocked)
    }

    /// Sends a message, unless more important messages are queued.
    pub(super) fn try_send(&self, kind: control_stream_request::Kind) {
        if let Some(outbound) = self
            .outbound
            .as_ref()
            .filter(|outbound| outbound.capacity() > OUTBOUND / 2)
        {
            // A lost message does not matter: progress is repeated, and the ack has all notes.
            let _ = outbound.try_send(ControlStreamRequest { kind: Some(kind) });
        }
    }

    /// Closes the outgoing half after the queued messages. The server then ends the stream.
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
    events: &mpsc::Sender<(Attempt, StreamEvent)>,
) -> (StreamEnd, String) {
    let (mut up, mut down) = match client.control_stream(options).await {
        Ok(halves) => halves,
        Err(error) => return end_of(&error),
    };
    // A blocked write must not stop the reading, or both ends could wait for each other.
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
                        // A full queue stops the reading, and flow control then stops the server.
                        if events
                            .send((attempt, StreamEvent::Message(message.kind)))
                            .await
                            .is_err()
                        {
                            break (StreamEnd::Lost, "the agent has ended".to_owned());
                        }
                    }
                    Err(broken) => {
                        tracing::warn!(%broken, "dropped an invalid message of the server")
                    }
                },
                Ok(None) => {
                    let reason = "the server closed the stream".to_owned();
                    break (StreamEnd::Lost, reason);
                }
                Err(error) => break end_of(&error),
            }
        }
    };
    tokio::pin!(write, read);
    tokio::select! {
        end = &mut read => end,
        // The reading half returns the reason.
        () = &mut write => read.await,
    }
}

fn end_of(error: &RpcError) -> (StreamEnd, String) {
    let limited = error
        .retry_after()
        .filter(|_| error.code == Code::ResourceExhausted);
    let end = if let Some(retry_after) = limited {
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
    };
    (end, error.to_string())
}
