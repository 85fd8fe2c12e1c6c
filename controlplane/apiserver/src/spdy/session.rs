//! A SPDY/3.1 connection seen from the client: opens streams, moves their bytes.
//!
//! One task reads frames and hands data to the streams; one writes. A stream whose reader is slow holds the connection
//! back, which is what the peer's TCP is for.

use std::{collections::HashMap, sync::Arc, time::Duration};

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    sync::{mpsc, oneshot},
};

use super::{
    frame::{self, FIN, Frame},
    headers::Writer,
};

/// How long the peer may take to accept a stream (stock: 30 s).
const OPEN_TIMEOUT: Duration = Duration::from_secs(30);
/// Data frames are cut to this many bytes.
const CHUNK: usize = 32 * 1024;

/// Why a stream could not be opened or used.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The connection ended.
    #[error("the SPDY connection is closed")]
    Closed,
    /// The peer refused the stream.
    #[error("the SPDY stream {0} was refused")]
    Refused(u32),
    /// The peer did not answer in time.
    #[error("timed out waiting for the SPDY stream {0} to be accepted")]
    Timeout(u32),
}

struct Entry {
    accepted: Option<oneshot::Sender<bool>>,
    data: Option<mpsc::Sender<Bytes>>,
}

#[derive(Default)]
struct Shared {
    streams: HashMap<u32, Entry>,
    headers: Writer,
    next: u32,
    closed: bool,
}

/// An open connection. Dropping it and its streams closes it.
pub struct Session {
    shared: Arc<Mutex<Shared>>,
    frames: mpsc::Sender<Bytes>,
}

/// One stream of a connection.
pub struct Stream {
    id: u32,
    data: mpsc::Receiver<Bytes>,
    frames: mpsc::Sender<Bytes>,
}

/// The half of a stream that sends.
#[derive(Clone)]
pub struct StreamSender {
    id: u32,
    frames: mpsc::Sender<Bytes>,
}

impl Session {
    /// Takes a connection over that was upgraded to SPDY/3.1.
    pub fn start<S>(connection: S) -> Self
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (mut reader, mut writer) = tokio::io::split(connection);
        let (frames, mut queue) = mpsc::channel::<Bytes>(16);
        let shared = Arc::new(Mutex::new(Shared { next: 1, ..Shared::default() }));
        tokio::spawn(async move {
            while let Some(bytes) = queue.recv().await {
                if writer.write_all(&bytes).await.is_err() {
                    return;
                }
                if queue.is_empty() && writer.flush().await.is_err() {
                    return;
                }
            }
            let _ = writer.shutdown().await;
        });
        let (state, pong) = (Arc::clone(&shared), frames.downgrade());
        tokio::spawn(async move {
            while let Ok(Some(frame)) = frame::read(&mut reader).await {
                match frame {
                    Frame::SynReply { stream, flags, .. } => {
                        let mut state = state.lock();
                        if let Some(entry) = state.streams.get_mut(&stream) {
                            if let Some(accepted) = entry.accepted.take() {
                                let _ = accepted.send(true);
                            }
                            if flags & FIN != 0 {
                                entry.data = None;
                            }
                        }
                    }
                    Frame::Data { stream, flags, data } => {
                        let target = state.lock().streams.get(&stream).and_then(|entry| entry.data.clone());
                        if let Some(target) = target
                            && !data.is_empty()
                        {
                            // A receiver that went away is not interested any more.
                            let _ = target.send(data).await;
                        }
                        if flags & FIN != 0
                            && let Some(entry) = state.lock().streams.get_mut(&stream)
                        {
                            entry.data = None;
                        }
                    }
                    Frame::Headers { stream, flags, .. } if flags & FIN != 0 => {
                        if let Some(entry) = state.lock().streams.get_mut(&stream) {
                            entry.data = None;
                        }
                    }
                    Frame::Reset { stream, .. } => {
                        if let Some(entry) = state.lock().streams.remove(&stream)
                            && let Some(accepted) = entry.accepted
                        {
                            let _ = accepted.send(false);
                        }
                    }
                    Frame::Ping(id) => {
                        let Some(pong) = pong.upgrade() else { break };
                        let _ = pong.send(Frame::Ping(id).encode()).await;
                    }
                    // The peer opens no streams in these protocols.
                    Frame::SynStream { stream, .. } => {
                        let Some(pong) = pong.upgrade() else { break };
                        let _ = pong.send(Frame::Reset { stream, status: 3 }.encode()).await;
                    }
                    Frame::Headers { .. } | Frame::GoAway { .. } | Frame::Ignored(_) => {}
                }
            }
            let mut state = state.lock();
            state.closed = true;
            state.streams.clear();
        });
        Self { shared, frames }
    }

    /// Opens a stream and waits until the peer has accepted it.
    ///
    /// # Errors
    /// [`SessionError`] when the connection is closed or the peer refuses or says nothing for 30 s.
    pub async fn open(&self, headers: &[(&str, &str)]) -> Result<Stream, SessionError> {
        let (accepted, answer) = oneshot::channel();
        let (sender, data) = mpsc::channel(16);
        let (id, syn) = {
            let mut shared = self.shared.lock();
            if shared.closed {
                return Err(SessionError::Closed);
            }
            let id = shared.next;
            shared.next += 2;
            shared.streams.insert(id, Entry { accepted: Some(accepted), data: Some(sender) });
            let block = shared.headers.write(headers).into();
            (id, Frame::SynStream { stream: id, flags: 0, block }.encode())
        };
        // Streams are opened one after another by their owner, so header blocks reach the wire in their order.
        self.frames.send(syn).await.map_err(|_| SessionError::Closed)?;
        match tokio::time::timeout(OPEN_TIMEOUT, answer).await {
            Ok(Ok(true)) => Ok(Stream { id, data, frames: self.frames.clone() }),
            Ok(Ok(false)) => Err(SessionError::Refused(id)),
            Ok(Err(_)) => Err(SessionError::Closed),
            Err(_) => Err(SessionError::Timeout(id)),
        }
    }
}

impl Stream {
    /// The next bytes from the peer; `None` when it has finished.
    pub async fn receive(&mut self) -> Option<Bytes> {
        self.data.recv().await
    }

    /// The sending half.
    pub fn sender(&self) -> StreamSender {
        StreamSender { id: self.id, frames: self.frames.clone() }
    }
}

impl StreamSender {
    /// Sends bytes.
    ///
    /// # Errors
    /// [`SessionError::Closed`] when the connection ended.
    pub async fn send(&self, mut data: Bytes) -> Result<(), SessionError> {
        while !data.is_empty() {
            let chunk = data.split_to(data.len().min(CHUNK));
            let frame = Frame::Data { stream: self.id, flags: 0, data: chunk }.encode();
            self.frames.send(frame).await.map_err(|_| SessionError::Closed)?;
        }
        Ok(())
    }

    /// Says that nothing follows: the end of stdin.
    ///
    /// # Errors
    /// [`SessionError::Closed`] when the connection ended.
    pub async fn finish(&self) -> Result<(), SessionError> {
        let frame = Frame::Data { stream: self.id, flags: FIN, data: Bytes::new() }.encode();
        self.frames.send(frame).await.map_err(|_| SessionError::Closed)
    }
}

#[cfg(test)]
mod tests {
    use super::{super::peer::Reader, *};

    /// A peer that accepts streams, echoes their data, and finishes when the client does.
    async fn echo(connection: tokio::io::DuplexStream) {
        let (mut reader, mut writer) = tokio::io::split(connection);
        let mut headers = Reader::default();
        while let Ok(Some(frame)) = frame::read(&mut reader).await {
            let answer = match frame {
                Frame::SynStream { stream, block, .. } => {
                    let seen = headers.read(&block).unwrap();
                    assert_eq!(seen[0].0, "streamtype");
                    if seen[0].1 == "refused" {
                        Frame::Reset { stream, status: 3 }
                    } else {
                        Frame::SynReply { stream, flags: 0, block: Bytes::new() }
                    }
                }
                data @ Frame::Data { .. } => data,
                other => panic!("unexpected {other:?}"),
            };
            writer.write_all(&answer.encode()).await.unwrap();
        }
    }

    #[tokio::test]
    async fn streams_carry_bytes_both_ways_and_half_close() {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(echo(theirs));
        let session = Session::start(ours);
        let mut first = session.open(&[("streamType", "stdin")]).await.unwrap();
        let mut second = session.open(&[("streamType", "stdout")]).await.unwrap();
        let big = Bytes::from(vec![7_u8; 3 * CHUNK]);
        let sender = second.sender();
        let sent = big.clone();
        tokio::spawn(async move {
            sender.send(sent).await.unwrap();
            sender.finish().await.unwrap();
        });
        let mut got = Vec::new();
        while let Some(bytes) = second.receive().await {
            got.extend_from_slice(&bytes);
        }
        assert_eq!(got.len(), big.len());
        first.sender().send(Bytes::from_static(b"hi")).await.unwrap();
        assert_eq!(first.receive().await.unwrap(), "hi");
    }

    #[tokio::test]
    async fn a_refused_stream_is_an_error() {
        let (ours, theirs) = tokio::io::duplex(1024);
        tokio::spawn(echo(theirs));
        let session = Session::start(ours);
        let refused = session.open(&[("streamType", "refused")]).await;
        assert!(matches!(refused, Err(SessionError::Refused(1))));
    }

    #[tokio::test]
    async fn a_connection_that_ends_ends_its_streams() {
        let (ours, theirs) = tokio::io::duplex(1024);
        let peer = tokio::spawn(echo(theirs));
        let session = Session::start(ours);
        let mut stream = session.open(&[("streamType", "stdout")]).await.unwrap();
        peer.abort();
        assert!(stream.receive().await.is_none());
        assert!(session.open(&[("streamType", "stdout")]).await.is_err());
    }
}
