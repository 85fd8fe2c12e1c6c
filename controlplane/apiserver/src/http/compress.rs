//! gzip of large answers, as stock does it: only when the client accepts it and the body is worth the work.

use std::io::Write as _;

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use http::{HeaderMap, header};

/// Bodies of fewer bytes are sent as they are (stock's threshold: 128 KiB).
pub const THRESHOLD: usize = 128 * 1024;

/// Whether the request accepts gzip.
pub fn accepts_gzip(headers: &HeaderMap) -> bool {
    headers
        .get_all(header::ACCEPT_ENCODING)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .any(|coding| coding.split(';').next().is_some_and(|name| name.trim().eq_ignore_ascii_case("gzip")))
}

/// The gzip form of `body`; `None` when it would not pay.
pub fn gzip(body: &Bytes) -> Option<Bytes> {
    if body.len() < THRESHOLD {
        return None;
    }
    let mut encoder = GzEncoder::new(Vec::with_capacity(body.len() / 4), Compression::fast());
    encoder.write_all(body).ok()?;
    encoder.finish().ok().map(Bytes::from)
}
