//! Bytes between two upgraded connections, as they are or inside a WebSocket.

use futures::{SinkExt as _, StreamExt as _};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::{WebSocketStream, tungstenite::Message};
use tokio_util::sync::CancellationToken;
use tracing::debug;

/// Waits for both upgrades, then copies bytes both ways until one side ends.
pub fn raw(client: OnUpgrade, other: OnUpgrade, shutdown: CancellationToken) {
    tokio::spawn(async move {
        let (client, other) = match tokio::try_join!(client, other) {
            Ok(both) => both,
            Err(error) => {
                debug!(%error, "an upgrade did not happen");
                return;
            }
        };
        let (mut client, mut other) = (TokioIo::new(client), TokioIo::new(other));
        tokio::select! {
            copied = tokio::io::copy_bidirectional(&mut client, &mut other) => {
                if let Err(error) = copied {
                    debug!(%error, "a tunnel ended");
                }
            }
            () = shutdown.cancelled() => {}
        }
    });
}

/// Carries the bytes of `other` in binary messages of a WebSocket (port-forward of newer clients).
pub async fn in_websocket(socket: WebSocketStream<TokioIo<Upgraded>>, other: Upgraded) {
    let (mut sink, mut source) = socket.split();
    let (mut reader, mut writer) = tokio::io::split(TokioIo::new(other));
    let inward = async {
        while let Some(Ok(message)) = source.next().await {
            match message {
                Message::Binary(bytes) if writer.write_all(&bytes).await.is_err() || writer.flush().await.is_err() => {
                    break;
                }
                Message::Close(_) => break,
                _ => {}
            }
        }
    };
    let outward = async {
        let mut buffer = vec![0_u8; 32 * 1024];
        loop {
            match reader.read(&mut buffer).await {
                Ok(0) | Err(_) => break,
                Ok(length) => {
                    let bytes = bytes::Bytes::copy_from_slice(&buffer[..length]);
                    if sink.send(Message::Binary(bytes)).await.is_err() {
                        break;
                    }
                }
            }
        }
        let _ = sink.send(Message::Close(None)).await;
    };
    tokio::select! {
        () = inward => {}
        () = outward => {}
    }
}
