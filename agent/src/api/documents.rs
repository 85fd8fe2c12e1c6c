//! A long list as a stream of JSON documents: made on a thread of its own, no faster than the reader takes them.
//!
//! May not know: what is listed.

use std::ops::ControlFlow;

use serde::Serialize;
use strake_agent_api::v1::Documents;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Response, Status};

/// What a call that lists returns.
pub type Stream = ReceiverStream<Result<Documents, Status>>;

/// Documents a message. With the messages that wait (below) and the one that is filled it bounds what a list holds.
const A_MESSAGE: usize = 128;
const WAITING: usize = 4;

/// Where documents go.
pub struct Sink {
    sender: mpsc::Sender<Result<Documents, Status>>,
    filled: Vec<String>,
}

impl Sink {
    /// Adds a document; waits while the reader is behind, and breaks when it has gone.
    pub fn put<T: Serialize>(&mut self, document: &T) -> ControlFlow<()> {
        match super::document(document) {
            Ok(json) => self.filled.push(json),
            Err(status) => return self.fail(status),
        }
        if self.filled.len() < A_MESSAGE { ControlFlow::Continue(()) } else { self.flush() }
    }

    fn flush(&mut self) -> ControlFlow<()> {
        let json = std::mem::take(&mut self.filled);
        if json.is_empty() {
            return ControlFlow::Continue(());
        }
        match self.sender.blocking_send(Ok(Documents { json })) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    }

    fn fail(&mut self, status: Status) -> ControlFlow<()> {
        // A reader that has gone does not want to know.
        let _ = self.sender.blocking_send(Err(status));
        ControlFlow::Break(())
    }
}

/// Streams what `list` puts into its sink; an error of its own ends the stream.
pub fn stream(list: impl FnOnce(&mut Sink) -> Result<(), Status> + Send + 'static) -> Response<Stream> {
    let (sender, receiver) = mpsc::channel(WAITING);
    tokio::task::spawn_blocking(move || {
        let mut sink = Sink { sender, filled: Vec::new() };
        let end = match list(&mut sink) {
            Ok(()) => sink.flush(),
            Err(status) => sink.fail(status),
        };
        tracing::trace!(read_to_the_end = end.is_continue(), "a list has ended");
    });
    Response::new(ReceiverStream::new(receiver))
}
