//! The CRI log line format and finding the last lines of a file.
//!
//! ```text
//! 2026-01-02T03:04:05.678901234Z stdout F the text of the line
//! 2026-01-02T03:04:05.678901234Z stderr P a piece of a longer line
//! ```

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

use k8s_openapi::jiff::Timestamp;

/// Output stream of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// One parsed line; `text` ends in a newline unless the line is a piece.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line<'a> {
    /// The time as written.
    pub time: &'a str,
    /// The stream.
    pub stream: Stream,
    /// A piece whose rest follows.
    pub partial: bool,
    /// Content without the newline.
    pub text: &'a [u8],
}

impl Line<'_> {
    /// The time, if it is one.
    pub fn timestamp(&self) -> Option<Timestamp> {
        self.time.parse().ok()
    }
}

/// Parses a raw line (with or without its newline). `None` when it is not in the format.
pub fn parse(raw: &[u8]) -> Option<Line<'_>> {
    let raw = raw.strip_suffix(b"\n").unwrap_or(raw);
    let mut parts = raw.splitn(4, |b| *b == b' ');
    let time = std::str::from_utf8(parts.next()?).ok()?;
    let stream = match parts.next()? {
        b"stdout" => Stream::Stdout,
        b"stderr" => Stream::Stderr,
        _ => return None,
    };
    let tag = parts.next()?;
    let partial = match tag.split(|b| *b == b':').next()? {
        b"F" => false,
        b"P" => true,
        _ => return None,
    };
    Some(Line { time, stream, partial, text: parts.next().unwrap_or_default() })
}

/// Offset of the first of the last `lines` lines. 0 lines is the end of the file.
pub fn tail_offset(file: &mut File, lines: u64) -> std::io::Result<u64> {
    const BLOCK: u64 = 64 * 1024;
    let end = file.seek(SeekFrom::End(0))?;
    if lines == 0 {
        return Ok(end);
    }
    let mut at = end;
    let mut seen = 0;
    let mut buffer = vec![0; BLOCK as usize];
    while at > 0 {
        let from = at.saturating_sub(BLOCK);
        let block = &mut buffer[..(at - from) as usize];
        file.seek(SeekFrom::Start(from))?;
        file.read_exact(block)?;
        for (i, byte) in block.iter().enumerate().rev() {
            let offset = from + i as u64;
            // The newline that ends the file ends the last line and starts none.
            if *byte == b'\n' && offset + 1 != end {
                seen += 1;
                if seen == lines {
                    return Ok(offset + 1);
                }
            }
        }
        at = from;
    }
    Ok(0)
}

/// The text of the last lines of a log, at most `bytes` of it.
pub fn last_lines(path: &Path, lines: u64, bytes: usize) -> Option<String> {
    let mut file = File::open(path).ok()?;
    let from = tail_offset(&mut file, lines).ok()?;
    file.seek(SeekFrom::Start(from)).ok()?;
    let mut raw = Vec::new();
    file.take(4 << 20).read_to_end(&mut raw).ok()?;
    let mut text = Vec::new();
    for line in raw.split_inclusive(|b| *b == b'\n') {
        let Some(l) = parse(line) else { continue };
        text.extend_from_slice(l.text);
        if !l.partial {
            text.push(b'\n');
        }
    }
    let start = text.len().saturating_sub(bytes);
    Some(String::from_utf8_lossy(&text[start..]).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_pieces_and_rubbish() {
        let l = parse(b"2026-01-02T03:04:05.678901234Z stdout F hello  world\n").unwrap();
        assert_eq!((l.stream, l.partial, l.text), (Stream::Stdout, false, b"hello  world".as_slice()));
        assert_eq!(l.timestamp().unwrap().subsec_nanosecond(), 678_901_234);
        assert!(parse(b"2026-01-02T03:04:05Z stderr P:x part").unwrap().partial);
        assert_eq!(parse(b"2026-01-02T03:04:05Z stdout F").unwrap().text, b"");
        assert!(parse(b"rubbish").is_none());
        assert!(parse(b"2026-01-02T03:04:05Z stdin F x").is_none());
    }

    #[test]
    fn the_last_lines_are_found_over_block_borders() {
        let mut f = tempfile::tempfile().unwrap();
        use std::io::Write as _;
        for i in 0..20_000 {
            writeln!(f, "line {i:06}").unwrap();
        }
        assert_eq!(tail_offset(&mut f, 0).unwrap(), 240_000);
        assert_eq!(tail_offset(&mut f, 1).unwrap(), 240_000 - 12);
        assert_eq!(tail_offset(&mut f, 10_000).unwrap(), 120_000);
        assert_eq!(tail_offset(&mut f, 30_000).unwrap(), 0);
        f.seek(SeekFrom::End(0)).unwrap();
        write!(f, "no newline").unwrap();
        assert_eq!(tail_offset(&mut f, 1).unwrap(), 240_000);
        assert_eq!(tail_offset(&mut f, 2).unwrap(), 240_000 - 12);
    }
}
