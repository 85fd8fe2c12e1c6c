//! Request and response bodies: reading with a size limit, whole answers, streamed answers.

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};

/// The largest request body accepted, in bytes: stock's 3 MiB.
pub const MAX_BODY: usize = 3 * 1024 * 1024;

/// What may go wrong while a body is being produced or consumed.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// The one response body type.
pub type Body = UnsyncBoxBody<Bytes, BoxError>;

/// A whole body.
pub fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

/// No body.
pub fn empty() -> Body {
    full(Bytes::new())
}

/// A body of chunks, each sent as soon as it is there.
pub fn stream<S>(chunks: S) -> Body
where
    S: Stream<Item = Result<Bytes, BoxError>> + Send + 'static,
{
    StreamBody::new(chunks.map(|chunk| chunk.map(Frame::data))).boxed_unsync()
}

/// Why a request body could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// More than `limit` bytes were sent.
    #[error("request body is larger than {limit} bytes")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// The connection failed before the end of the body.
    #[error("reading the request body: {0}")]
    Broken(String),
}

/// Reads a whole request body of at most `limit` bytes.
///
/// # Errors
/// [`ReadError::TooLarge`] as soon as more than `limit` bytes are announced or seen; [`ReadError::Broken`] when the
/// peer goes away.
pub async fn read<B>(mut body: B, limit: usize) -> Result<Bytes, ReadError>
where
    B: http_body::Body<Data = Bytes> + Unpin,
    B::Error: std::fmt::Display,
{
    if body.size_hint().lower() > limit as u64 {
        return Err(ReadError::TooLarge { limit });
    }
    let mut first: Option<Bytes> = None;
    let mut rest = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| ReadError::Broken(error.to_string()))?;
        let Ok(data) = frame.into_data() else { continue };
        match (&mut first, rest.is_empty()) {
            (None, true) => first = Some(data),
            (Some(head), true) => {
                rest.extend_from_slice(head);
                rest.extend_from_slice(&data);
            }
            _ => rest.extend_from_slice(&data),
        }
        if rest.len().max(first.as_ref().map_or(0, Bytes::len)) > limit {
            return Err(ReadError::TooLarge { limit });
        }
    }
    Ok(if rest.is_empty() { first.unwrap_or_default() } else { rest.freeze() })
}
