//! exec and attach: the channels of a WebSocket (v5 and v4 `channel.k8s.io`) to the streams of SPDY/3.1 and back.
//!
//! ```text
//!   binary message: | channel u8 | bytes |     0 stdin  1 stdout  2 stderr  3 error (a Status)  4 resize
//!   v5 only:        | 255        | 0     |     the client's stdin is at its end
//! ```

use bytes::{BufMut as _, Bytes, BytesMut};
use futures::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Message, Utf8Bytes,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};
use tracing::debug;

use crate::spdy::{Session, SessionError, Stream};

const STDIN: u8 = 0;
const STDOUT: u8 = 1;
const STDERR: u8 = 2;
const ERROR: u8 = 3;
const RESIZE: u8 = 4;
const CLOSE: u8 = 255;

/// Which streams a session has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Standard input.
    pub stdin: bool,
    /// Standard output.
    pub stdout: bool,
    /// Standard error.
    pub stderr: bool,
    /// A terminal: stderr is part of stdout, and sizes are sent.
    pub tty: bool,
}

async fn open(session: &Session, kind: &str, wanted: bool) -> Result<Option<Stream>, SessionError> {
    if wanted { session.open(&[("streamType", kind)]).await.map(Some) } else { Ok(None) }
}

/// Forwards what a stream receives as messages of a channel until the stream ends.
async fn outward(stream: Option<Stream>, channel: u8, messages: mpsc::Sender<Message>) {
    let Some(mut stream) = stream else { return };
    while let Some(data) = stream.receive().await {
        let mut message = BytesMut::with_capacity(data.len() + 1);
        message.put_u8(channel);
        message.put_slice(&data);
        if messages.send(Message::Binary(message.freeze())).await.is_err() {
            return;
        }
    }
}

/// Runs a session until the process or the client ends it.
///
/// # Errors
/// When the runtime refuses a stream or goes away before the session has begun.
pub async fn run<C, K>(
    client: WebSocketStream<C>,
    runtime: K,
    wanted: Wanted,
    half_close: bool,
) -> Result<(), SessionError>
where
    C: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    K: AsyncRead + AsyncWrite + Send + 'static,
{
    let session = Session::start(runtime);
    // In the order in which stock clients open them.
    let error = open(&session, "error", true).await?;
    let stdin = open(&session, "stdin", wanted.stdin).await?;
    let stdout = open(&session, "stdout", wanted.stdout).await?;
    let stderr = open(&session, "stderr", wanted.stderr && !wanted.tty).await?;
    let resize = open(&session, "resize", wanted.tty).await?;
    let (input, sizes) = (stdin.as_ref().map(Stream::sender), resize.as_ref().map(Stream::sender));

    let (mut sink, mut source) = client.split();
    let (messages, mut queue) = mpsc::channel::<Message>(16);
    // Clients take the first message, an empty one on the lowest channel they read, as the sign that all is set up.
    let first = match (&stdout, &stderr) {
        (Some(_), _) => STDOUT,
        (None, Some(_)) => STDERR,
        (None, None) => ERROR,
    };
    let _ = messages.send(Message::Binary(Bytes::copy_from_slice(&[first]))).await;
    let outputs = async move {
        let (out, err) = (messages.clone(), messages.clone());
        tokio::join!(outward(stdout, STDOUT, out), outward(stderr, STDERR, err), outward(error, ERROR, messages));
    };
    let writer = async {
        while let Some(message) = queue.recv().await {
            if sink.send(message).await.is_err() {
                return;
            }
        }
        // Clients take only 1000 for an orderly end (RFC 6455, 7.4.1); without a code they report an error.
        let normal = CloseFrame { code: CloseCode::Normal, reason: Utf8Bytes::default() };
        let _ = sink.send(Message::Close(Some(normal))).await;
        let _ = sink.flush().await;
    };
    let reader = async {
        while let Some(message) = source.next().await {
            let data = match message {
                Ok(Message::Binary(data)) => data,
                Ok(Message::Text(text)) => Bytes::from(text),
                Ok(Message::Close(_)) => return,
                Ok(_) => continue,
                Err(error) => {
                    debug!(%error, "the client's WebSocket ended");
                    return;
                }
            };
            let Some((channel, rest)) = data.split_first() else { continue };
            let rest = data.slice_ref(rest);
            let sent = match (*channel, &input, &sizes) {
                (STDIN, Some(input), _) => input.send(rest).await,
                (RESIZE, _, Some(sizes)) => sizes.send(rest).await,
                (CLOSE, Some(input), _) if half_close && rest.first() == Some(&STDIN) => input.finish().await,
                _ => Ok(()),
            };
            if sent.is_err() {
                // The runtime has gone; what it said last is still being written.
                std::future::pending::<()>().await;
            }
        }
    };
    tokio::select! {
        ((), ()) = async { tokio::join!(outputs, writer) } => {}
        () = reader => {}
    }
    drop((stdin, resize, session));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::{
        frame::{self, FIN, Frame},
        peer::Reader,
    };
    use std::collections::HashMap;
    use tokio::io::AsyncWriteExt as _;
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// A runtime that upper-cases stdin, says so on stderr at its end, and answers with a Status.
    async fn shouting(connection: tokio::io::DuplexStream) {
        let (mut reader, mut writer) = tokio::io::split(connection);
        let (mut headers, mut ids) = (Reader::default(), HashMap::new());
        while let Ok(Some(frame)) = frame::read(&mut reader).await {
            let mut answers = Vec::new();
            match frame {
                Frame::SynStream { stream, block, .. } => {
                    ids.insert(headers.read(&block).unwrap()[0].1.clone(), stream);
                    answers.push(Frame::SynReply { stream, flags: 0, block: Bytes::new() });
                }
                Frame::Data { stream, flags, data } if stream == ids["stdin"] => {
                    if !data.is_empty() {
                        let data = data.to_ascii_uppercase().into();
                        answers.push(Frame::Data { stream: ids["stdout"], flags: 0, data });
                    }
                    if flags & FIN != 0 {
                        for (name, text) in [("stderr", "done"), ("stdout", ""), ("error", r#"{"status":"Success"}"#)] {
                            let data = Bytes::from_static(text.as_bytes());
                            answers.push(Frame::Data { stream: ids[name], flags: FIN, data });
                        }
                    }
                }
                _ => {}
            }
            for answer in answers {
                writer.write_all(&answer.encode()).await.unwrap();
            }
        }
    }

    #[tokio::test]
    async fn a_session_carries_input_output_and_status() {
        let (client, server) = tokio::io::duplex(4096);
        let (ours, theirs) = tokio::io::duplex(4096);
        tokio::spawn(shouting(theirs));
        let server = WebSocketStream::from_raw_socket(server, Role::Server, None).await;
        let wanted = Wanted { stdin: true, stdout: true, stderr: true, tty: false };
        let session = tokio::spawn(run(server, ours, wanted, true));
        let mut client = WebSocketStream::from_raw_socket(client, Role::Client, None).await;
        client.send(Message::Binary(Bytes::from_static(b"\x00hello"))).await.unwrap();
        client.send(Message::Binary(Bytes::from_static(&[CLOSE, STDIN]))).await.unwrap();
        let mut seen: HashMap<u8, Vec<u8>> = HashMap::new();
        while let Some(Ok(message)) = client.next().await {
            if let Message::Binary(data) = message {
                seen.entry(data[0]).or_default().extend_from_slice(&data[1..]);
            }
        }
        assert_eq!(seen[&STDOUT], b"HELLO");
        assert_eq!(seen[&STDERR], b"done");
        assert_eq!(seen[&ERROR], br#"{"status":"Success"}"#);
        session.await.unwrap().unwrap();
    }
}
