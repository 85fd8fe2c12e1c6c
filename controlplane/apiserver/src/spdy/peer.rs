//! What a peer needs to read header blocks: the tests' container runtime.
//!
//! The dictionary is put into the inflater's window by feeding it as a stored block first, so no zlib with dictionary
//! support is needed.

use flate2::{Decompress, FlushDecompress, Status};

use super::headers::{DICTIONARY_ID, stored};

/// Names that the dictionary holds with a 32-bit big-endian length before each, in this order (SPDY/3, 2.6.10.1).
const WORDS: [&str; 65] = [
    "options",
    "head",
    "post",
    "put",
    "delete",
    "trace",
    "accept",
    "accept-charset",
    "accept-encoding",
    "accept-language",
    "accept-ranges",
    "age",
    "allow",
    "authorization",
    "cache-control",
    "connection",
    "content-base",
    "content-encoding",
    "content-language",
    "content-length",
    "content-location",
    "content-md5",
    "content-range",
    "content-type",
    "date",
    "etag",
    "expect",
    "expires",
    "from",
    "host",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "last-modified",
    "location",
    "max-forwards",
    "pragma",
    "proxy-authenticate",
    "proxy-authorization",
    "range",
    "referer",
    "retry-after",
    "server",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "user-agent",
    "vary",
    "via",
    "warning",
    "www-authenticate",
    "method",
    "get",
    "status",
    "200 OK",
    "version",
    "HTTP/1.1",
    "url",
    "public",
    "set-cookie",
    "keep-alive",
    "origin",
];

/// What follows the names in the dictionary.
const TAIL: &str = "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505\
203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized403 Forbidden\
404 Not Found500 Internal Server Error501 Not Implemented503 Service UnavailableJan Feb Mar Apr May Jun Jul Aug Sept \
Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMTchunked,text/html,image/png,image/jpg,image/gif,\
application/xml,application/xhtml+xml,text/plain,text/javascript,publicprivatemax-age=gzip,deflate,sdch\
charset=utf-8charset=iso-8859-1,utf-,*,enq=0.";

/// A header block may not grow beyond this when it is inflated.
const MAX_BLOCK: usize = 256 * 1024;

fn dictionary() -> Vec<u8> {
    let mut bytes = Vec::with_capacity(1423);
    for word in WORDS {
        bytes.extend_from_slice(&(word.len() as u32).to_be_bytes());
        bytes.extend_from_slice(word.as_bytes());
    }
    bytes.extend_from_slice(TAIL.as_bytes());
    bytes
}

/// Why a header block could not be read.
#[derive(Debug, thiserror::Error)]
pub enum HeaderError {
    /// The zlib stream is damaged.
    #[error("SPDY header block: {0}")]
    Zlib(&'static str),
    /// The pairs do not fit their block.
    #[error("SPDY header block: {0} bytes end inside a name or a value")]
    Truncated(usize),
}

/// Decompresses header blocks of one direction.
pub struct Reader {
    inflate: Decompress,
    started: bool,
}

impl Default for Reader {
    fn default() -> Self {
        Self { inflate: Decompress::new(false), started: false }
    }
}

impl Reader {
    fn inflate(&mut self, mut input: &[u8]) -> Result<Vec<u8>, HeaderError> {
        let mut out = Vec::new();
        let mut buffer = [0_u8; 4096];
        loop {
            let (in_before, out_before) = (self.inflate.total_in(), self.inflate.total_out());
            let status = self
                .inflate
                .decompress(input, &mut buffer, FlushDecompress::Sync)
                .map_err(|_| HeaderError::Zlib("the deflate stream is damaged"))?;
            let read = (self.inflate.total_in() - in_before) as usize;
            let written = (self.inflate.total_out() - out_before) as usize;
            input = &input[read..];
            out.extend_from_slice(&buffer[..written]);
            if out.len() > MAX_BLOCK {
                return Err(HeaderError::Zlib("it is larger than 256 KiB"));
            }
            if status == Status::StreamEnd
                || (read == 0 && written == 0)
                || (input.is_empty() && written < buffer.len())
            {
                return Ok(out);
            }
        }
    }

    /// The headers of a compressed block.
    ///
    /// # Errors
    /// [`HeaderError`] when the block is damaged or larger than 256 KiB.
    pub fn read(&mut self, mut block: &[u8]) -> Result<Vec<(String, String)>, HeaderError> {
        if !self.started {
            let [_, flags, rest @ ..] = block else { return Err(HeaderError::Zlib("it has no zlib header")) };
            block = rest;
            if flags & 0x20 != 0 {
                let [a, b, c, d, rest @ ..] = block else {
                    return Err(HeaderError::Zlib("it ends inside its dictionary id"));
                };
                if u32::from_be_bytes([*a, *b, *c, *d]) != DICTIONARY_ID {
                    return Err(HeaderError::Zlib("it uses another dictionary"));
                }
                block = rest;
            }
            self.started = true;
            self.inflate(&stored(&dictionary()))?;
        }
        let plain = self.inflate(block)?;
        let mut rest = plain.as_slice();
        let number = |rest: &mut &[u8]| -> Result<usize, HeaderError> {
            let (head, tail) = rest.split_first_chunk::<4>().ok_or(HeaderError::Truncated(plain.len()))?;
            *rest = tail;
            Ok(u32::from_be_bytes(*head) as usize)
        };
        let count = number(&mut rest)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let mut pair = [String::new(), String::new()];
            for text in &mut pair {
                let length = number(&mut rest)?;
                if length > rest.len() {
                    return Err(HeaderError::Truncated(plain.len()));
                }
                let (head, tail) = rest.split_at(length);
                *text = String::from_utf8_lossy(head).into_owned();
                rest = tail;
            }
            let [name, value] = pair;
            headers.push((name, value));
        }
        Ok(headers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spdy::headers::Writer;

    fn adler32(bytes: &[u8]) -> u32 {
        let (mut a, mut b) = (1_u32, 0_u32);
        for byte in bytes {
            a = (a + u32::from(*byte)) % 65521;
            b = (b + a) % 65521;
        }
        b << 16 | a
    }

    #[test]
    fn the_dictionary_is_the_one_of_spdy_3() {
        assert_eq!(dictionary().len(), 1423);
        assert_eq!(adler32(&dictionary()), DICTIONARY_ID);
    }

    #[test]
    fn blocks_survive_the_way_there_and_back_in_one_context() {
        let (mut writer, mut reader) = (Writer::default(), Reader::default());
        for value in ["error", "stdin", "stdout"] {
            let block = writer.write(&[("streamType", value), ("x", "")]);
            let expected = vec![("streamtype".to_owned(), value.to_owned()), ("x".to_owned(), String::new())];
            assert_eq!(reader.read(&block).unwrap(), expected);
        }
    }

    #[test]
    fn damage_is_an_error_not_a_panic() {
        assert!(Reader::default().read(&[]).is_err());
        assert!(Reader::default().read(&[0x78, 0xbb, 1, 2, 3, 4]).is_err());
        assert!(Reader::default().read(&[0x78, 0x9c, 0xff, 0xff, 0xff]).is_err());
        let mut block = Writer::default().write(&[("a", "b")]);
        // The flush is five bytes, the value is before it.
        block.truncate(block.len() - 6);
        let read = Reader::default().read(&block);
        assert!(read.is_err(), "{read:?}");
    }
}
