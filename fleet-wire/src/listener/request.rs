//! [`RequestGuard`]: ends one request of a connection from outside, also while its peer does not read the response.

use hyper::rt::Executor;
use tokio_util::sync::CancellationToken;

use super::guard::ConnectionGuard;

tokio::task_local! {
    /// Ends the HTTP/2 stream whose task this is.
    static STREAM: CancellationToken;
}

/// One request of the listener. Each request carries its guard in its extensions.
///
/// hyper asks a response for its next part only when the peer has taken the parts before it. A response can therefore not
/// end itself while its peer does not read.
#[derive(Debug, Clone)]
pub struct RequestGuard(Carrier);

#[derive(Debug, Clone)]
enum Carrier {
    /// HTTP/1.1 has one request at a time.
    Connection(ConnectionGuard),
    /// A stream of HTTP/2.
    Stream(CancellationToken),
}

impl RequestGuard {
    /// The guard of the request that is served now. Call it in the future of the service, which HTTP/2 polls in a task of
    /// the stream.
    pub(super) fn current(connection: &ConnectionGuard) -> Self {
        let stream = STREAM.try_with(Clone::clone);
        Self(stream.map_or_else(|_| Carrier::Connection(connection.clone()), Carrier::Stream))
    }

    /// Ends the request at once, and drops its response: resets the stream of HTTP/2, and closes the connection of
    /// HTTP/1.1. Data that the operating system has taken still arrives. Has no effect on a stream that has ended; an
    /// HTTP/1.1 connection may have gone on to its next request.
    pub fn cut(&self) {
        match &self.0 {
            Carrier::Connection(connection) => connection.close(),
            Carrier::Stream(stream) => stream.cancel(),
        }
    }
}

/// Spawns each stream of an HTTP/2 connection as a task that [`RequestGuard::cut`] ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Streams;

impl<F> Executor<F> for Streams
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, stream: F) {
        let cut = CancellationToken::new();
        let task = STREAM.scope(cut.clone(), stream);
        // Dropping the stream resets it.
        tokio::spawn(async move {
            tokio::select! {
                biased;
                () = cut.cancelled() => {}
                () = task => {}
            }
        });
    }
}
