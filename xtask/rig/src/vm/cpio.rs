//! The `newc` archives that a kernel unpacks as its first root file system. Folders are made as files need them.

use std::collections::BTreeMap;
use std::io::{self, Write};

const DIRECTORY: u32 = 0o040_755;
const FILE: u32 = 0o100_000;
const LINK: u32 = 0o120_777;
const CHARACTER_DEVICE: u32 = 0o020_600;

enum Entry {
    Directory,
    File { mode: u32, content: Vec<u8> },
    Link(String),
    Device { major: u32, minor: u32 },
}

/// An archive in the making, by absolute path.
#[derive(Default)]
pub struct Archive(BTreeMap<String, Entry>);

impl Archive {
    fn insert(&mut self, path: &str, entry: Entry) {
        let path = path.trim_matches('/');
        for (at, _) in path.match_indices('/') {
            self.0.entry(path[..at].to_owned()).or_insert(Entry::Directory);
        }
        self.0.insert(path.to_owned(), entry);
    }

    pub fn directory(&mut self, path: &str) {
        self.insert(path, Entry::Directory);
    }

    pub fn file(&mut self, path: &str, mode: u32, content: Vec<u8>) {
        self.insert(path, Entry::File { mode, content });
    }

    pub fn link(&mut self, path: &str, target: &str) {
        self.insert(path, Entry::Link(target.to_owned()));
    }

    pub fn device(&mut self, path: &str, major: u32, minor: u32) {
        self.insert(path, Entry::Device { major, minor });
    }

    pub fn has(&self, path: &str) -> bool {
        self.0.contains_key(path.trim_matches('/'))
    }

    /// Writes the archive; several may follow each other in one file.
    pub fn write(&self, out: &mut impl Write) -> io::Result<()> {
        for (number, (path, entry)) in self.0.iter().enumerate() {
            let (mode, content, device): (u32, &[u8], (u32, u32)) = match entry {
                Entry::Directory => (DIRECTORY, &[], (0, 0)),
                Entry::File { mode, content } => (FILE | mode, content, (0, 0)),
                Entry::Link(target) => (LINK, target.as_bytes(), (0, 0)),
                Entry::Device { major, minor } => (CHARACTER_DEVICE, &[], (*major, *minor)),
            };
            record(out, number as u32 + 1, path, mode, content, device)?;
        }
        record(out, 0, "TRAILER!!!", 0, &[], (0, 0))
    }
}

fn record(
    out: &mut impl Write,
    inode: u32,
    path: &str,
    mode: u32,
    content: &[u8],
    device: (u32, u32),
) -> io::Result<()> {
    let size = u32::try_from(content.len()).map_err(io::Error::other)?;
    let name = path.len() as u32 + 1;
    // inode, mode, uid, gid, links, mtime, size, device, device of a device file, length of the name, checksum.
    let fields = [inode, mode, 0, 0, 1, 0, size, 0, 0, device.0, device.1, name, 0];
    out.write_all(b"070701")?;
    for field in fields {
        write!(out, "{field:08x}")?;
    }
    out.write_all(path.as_bytes())?;
    // The name ends with a zero and is filled up to four bytes with its header of 110.
    out.write_all(&[0; 4][..1 + pad(110 + name as usize)])?;
    out.write_all(content)?;
    out.write_all(&[0; 4][..pad(content.len())])
}

fn pad(length: usize) -> usize {
    length.next_multiple_of(4) - length
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_program_unpacks_what_was_written() {
        let mut archive = Archive::default();
        archive.file("/a/b/run", 0o755, b"hello".to_vec());
        archive.link("/a/again", "b/run");
        archive.directory("/empty");
        assert!(archive.has("/a/b/run") && archive.has("a") && !archive.has("/b"));
        let dir = tempfile::tempdir().unwrap();
        archive.write(&mut std::fs::File::create(dir.path().join("x.cpio")).unwrap()).unwrap();
        let mut unpack = std::process::Command::new("busybox");
        unpack.args(["cpio", "-i", "-F", "x.cpio"]).current_dir(dir.path());
        let output = unpack.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert_eq!(std::fs::read(dir.path().join("a/again")).unwrap(), b"hello");
        assert!(dir.path().join("empty").is_dir());
    }
}
