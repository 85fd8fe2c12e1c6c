//! SPDY/3.1 frames on the wire. Pure apart from reading from and writing to a stream of bytes.

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};

/// FLAG_FIN: the sender is done with the stream.
pub const FIN: u8 = 0x01;

/// Frames larger than this are refused.
const MAX_FRAME: usize = 4 * 1024 * 1024;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const SETTINGS: u16 = 4;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;

/// One frame. Header blocks stay compressed: their order on the connection matters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// Opens a stream.
    SynStream {
        /// Stream id: odd from the client.
        stream: u32,
        /// Flags; FIN for a stream that only receives.
        flags: u8,
        /// Compressed headers.
        block: Bytes,
    },
    /// Accepts a stream.
    SynReply {
        /// Stream id.
        stream: u32,
        /// Flags.
        flags: u8,
        /// Compressed headers.
        block: Bytes,
    },
    /// Ends a stream in both directions, with a status code (1 protocol error, 3 refused, 5 cancel, ...).
    Reset {
        /// Stream id.
        stream: u32,
        /// Status code.
        status: u32,
    },
    /// More headers.
    Headers {
        /// Stream id.
        stream: u32,
        /// Flags.
        flags: u8,
        /// Compressed headers.
        block: Bytes,
    },
    /// A ping, to be sent back as it is.
    Ping(u32),
    /// No further streams.
    GoAway {
        /// The last stream accepted.
        last: u32,
        /// 0 for a normal end.
        status: u32,
    },
    /// Data of a stream.
    Data {
        /// Stream id.
        stream: u32,
        /// Flags.
        flags: u8,
        /// Bytes.
        data: Bytes,
    },
    /// SETTINGS, WINDOW_UPDATE and others that ask for nothing here.
    Ignored(u16),
}

fn control(kind: u16, flags: u8, payload: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(8 + payload.len());
    out.put_u16(0x8003);
    out.put_u16(kind);
    out.put_u32(u32::from(flags) << 24 | payload.len() as u32);
    out.put_slice(payload);
    out.freeze()
}

impl Frame {
    /// The frame's bytes.
    pub fn encode(&self) -> Bytes {
        match self {
            Self::SynStream { stream, flags, block } => {
                let mut payload = BytesMut::with_capacity(10 + block.len());
                payload.put_u32(*stream);
                payload.put_u32(0);
                payload.put_u16(0);
                payload.put_slice(block);
                control(SYN_STREAM, *flags, &payload)
            }
            Self::SynReply { stream, flags, block } => control(SYN_REPLY, *flags, &with_stream(*stream, block)),
            Self::Headers { stream, flags, block } => control(HEADERS, *flags, &with_stream(*stream, block)),
            Self::Reset { stream, status } => control(RST_STREAM, 0, &with_stream(*stream, &status.to_be_bytes())),
            Self::Ping(id) => control(PING, 0, &id.to_be_bytes()),
            Self::GoAway { last, status } => control(GOAWAY, 0, &with_stream(*last, &status.to_be_bytes())),
            Self::Data { stream, flags, data } => {
                let mut out = BytesMut::with_capacity(8 + data.len());
                out.put_u32(stream & 0x7fff_ffff);
                out.put_u32(u32::from(*flags) << 24 | data.len() as u32);
                out.put_slice(data);
                out.freeze()
            }
            Self::Ignored(kind) => control(*kind, 0, &[]),
        }
    }
}

fn with_stream(stream: u32, rest: &[u8]) -> BytesMut {
    let mut payload = BytesMut::with_capacity(4 + rest.len());
    payload.put_u32(stream & 0x7fff_ffff);
    payload.put_slice(rest);
    payload
}

fn bad(what: &'static str) -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, what)
}

/// Reads one frame; `None` at a clean end of the connection.
///
/// # Errors
/// I/O errors; `InvalidData` for frames of another version, too large or too short.
pub async fn read<R: AsyncRead + Unpin>(from: &mut R) -> std::io::Result<Option<Frame>> {
    let mut head = [0_u8; 8];
    match from.read_exact(&mut head).await {
        Ok(_) => {}
        Err(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let first = u32::from_be_bytes([head[0], head[1], head[2], head[3]]);
    let flags = head[4];
    let length = u32::from_be_bytes([0, head[5], head[6], head[7]]) as usize;
    if length > MAX_FRAME {
        return Err(bad("a SPDY frame is larger than 4 MiB"));
    }
    let mut payload = BytesMut::zeroed(length);
    from.read_exact(&mut payload).await?;
    let mut payload = payload.freeze();
    if first & 0x8000_0000 == 0 {
        return Ok(Some(Frame::Data { stream: first, flags, data: payload }));
    }
    if (first >> 16) & 0x7fff != 3 {
        return Err(bad("a SPDY frame of another version than 3"));
    }
    let number = |at: usize| -> std::io::Result<u32> {
        payload
            .get(at..at + 4)
            .and_then(|bytes| bytes.try_into().ok())
            .map(u32::from_be_bytes)
            .ok_or_else(|| bad("a SPDY control frame is too short"))
    };
    let kind = (first & 0xffff) as u16;
    Ok(Some(match kind {
        SYN_STREAM => {
            let stream = number(0)? & 0x7fff_ffff;
            if payload.len() < 10 {
                return Err(bad("a SYN_STREAM frame is too short"));
            }
            Frame::SynStream { stream, flags, block: payload.split_off(10) }
        }
        SYN_REPLY => {
            let stream = number(0)? & 0x7fff_ffff;
            Frame::SynReply { stream, flags, block: payload.split_off(4) }
        }
        HEADERS => {
            let stream = number(0)? & 0x7fff_ffff;
            Frame::Headers { stream, flags, block: payload.split_off(4) }
        }
        RST_STREAM => Frame::Reset { stream: number(0)? & 0x7fff_ffff, status: number(4)? },
        PING => Frame::Ping(number(0)?),
        GOAWAY => Frame::GoAway { last: number(0)? & 0x7fff_ffff, status: number(4)? },
        SETTINGS => Frame::Ignored(SETTINGS),
        other => Frame::Ignored(other),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn frames_survive_the_wire() {
        let frames = [
            Frame::SynStream { stream: 1, flags: 0, block: Bytes::from_static(b"headers") },
            Frame::SynReply { stream: 1, flags: FIN, block: Bytes::from_static(b"x") },
            Frame::Data { stream: 3, flags: FIN, data: Bytes::from_static(b"hello") },
            Frame::Reset { stream: 3, status: 5 },
            Frame::Ping(2),
            Frame::GoAway { last: 7, status: 0 },
            Frame::Headers { stream: 5, flags: 0, block: Bytes::new() },
        ];
        let wire: Vec<u8> = frames.iter().flat_map(|frame| frame.encode().to_vec()).collect();
        let mut rest = wire.as_slice();
        for frame in frames {
            assert_eq!(read(&mut rest).await.unwrap(), Some(frame));
        }
        assert_eq!(read(&mut rest).await.unwrap(), None);
    }

    #[tokio::test]
    async fn short_and_foreign_frames_are_errors() {
        for wire in
            [&[0x80, 3, 0, 3, 0, 0, 0, 2, 0, 0][..], &[0x80, 2, 0, 1, 0, 0, 0, 0], &[0, 0, 0, 1, 0, 0xff, 0xff, 0xff]]
        {
            let mut rest = wire;
            assert!(read(&mut rest).await.is_err(), "{wire:?}");
        }
    }
}
