//! The header block of SPDY/3: name/value pairs, zlib-compressed with a preset dictionary, one context a direction.
//!
//! Blocks are written as stored (uncompressed) deflate blocks, which every inflater accepts whatever its dictionary.
//! The headers of answers say nothing that is needed here and are not read; the reader is part of the tests' peer.

/// The Adler-32 of the dictionary, as zlib streams name it.
pub const DICTIONARY_ID: u32 = 0xe3c6_a7c2;

/// One stored deflate block, not the last of its stream.
pub(super) fn stored(data: &[u8]) -> Vec<u8> {
    let length = data.len() as u16;
    let mut block = Vec::with_capacity(data.len() + 5);
    block.push(0);
    block.extend_from_slice(&length.to_le_bytes());
    block.extend_from_slice(&(!length).to_le_bytes());
    block.extend_from_slice(data);
    block
}

/// Compresses header blocks of one direction.
#[derive(Debug, Default)]
pub struct Writer {
    started: bool,
}

impl Writer {
    /// The compressed form of a list of headers. Names are written in lower case.
    pub fn write(&mut self, headers: &[(&str, &str)]) -> Vec<u8> {
        let mut plain = Vec::new();
        plain.extend_from_slice(&(headers.len() as u32).to_be_bytes());
        for (name, value) in headers {
            let name = name.to_ascii_lowercase();
            for text in [name.as_bytes(), value.as_bytes()] {
                plain.extend_from_slice(&(text.len() as u32).to_be_bytes());
                plain.extend_from_slice(text);
            }
        }
        let mut out = Vec::with_capacity(plain.len() + 16);
        if !self.started {
            self.started = true;
            // CM 8, window 32 KiB, preset dictionary; FLG makes the pair a multiple of 31.
            out.extend_from_slice(&[0x78, 0xbb]);
            out.extend_from_slice(&DICTIONARY_ID.to_be_bytes());
        }
        for chunk in plain.chunks(usize::from(u16::MAX)) {
            out.extend_from_slice(&stored(chunk));
        }
        // A sync flush (an empty stored block): inflaters hand out what they have at one, and only there. Go's waits
        // for it, and takes the end of the frame for the end of the whole stream without it.
        out.extend_from_slice(&stored(&[]));
        out
    }
}
