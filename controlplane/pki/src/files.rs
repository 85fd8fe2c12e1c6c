//! Files that hold secrets: private modes from the first byte on, replaced in one step, on disk before they count.

use crate::{Error, Result};
use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

/// Creates a directory, and its parents, with mode 0700; an existing one is left as it is.
pub fn create_private_dir(dir: &Path) -> Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|source| Error::Io {
        doing: "creating the directory",
        path: dir.to_owned(),
        source,
    })
}

/// Replaces a file in one step. `mode` holds from the first byte on.
pub fn write_atomic(path: &Path, content: &[u8], mode: u32) -> Result<()> {
    let fail = |source: io::Error| Error::Io { doing: "writing", path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| fail(io::Error::other("it has no file name")))?;
    let mut temporary = name.to_owned();
    temporary.push(format!(".{}.tmp", std::process::id()));
    let temporary = path.with_file_name(temporary);
    let write = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)?;
        // The directory too, or the new name may be lost with the power.
        path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    };
    write().map_err(|e| {
        let _ = fs::remove_file(&temporary);
        fail(e)
    })
}

/// The content, or `None` if there is no such file.
pub fn read_optional(path: &Path) -> Result<Option<String>> {
    match fs::read(path) {
        Ok(bytes) => String::from_utf8(bytes).map(Some).map_err(|e| Error::Damaged {
            path: path.to_owned(),
            expected: "text",
            detail: e.to_string(),
        }),
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { doing: "reading", path: path.to_owned(), source }),
    }
}
