//! Log rotation: a file over its size is renamed and the runtime told to open a new one; the oldest are removed.

use std::path::{Path, PathBuf};

use k8s_openapi::jiff::Timestamp;

use crate::cri::Cri;
use crate::error::{Error, Result};

/// Size at which a log is rotated, bytes (stock: 10Mi).
pub const MAX_SIZE: u64 = 10 << 20;
/// Files kept a container, the one being written included (stock: 5).
pub const MAX_FILES: usize = 5;

/// Rotates the log of a running container if it is due. Returns whether it was.
pub async fn rotate(cri: &Cri, id: &str, path: &Path, max_size: u64) -> Result<bool> {
    let Ok(meta) = tokio::fs::metadata(path).await else { return Ok(false) };
    if meta.len() <= max_size {
        return Ok(false);
    }
    let now = Timestamp::now().strftime("%Y%m%d-%H%M%S").to_string();
    let to = PathBuf::from(format!("{}.{now}", path.display()));
    tokio::fs::rename(path, &to).await.map_err(Error::io("rename", path))?;
    if let Err(error) = cri.reopen_log(id).await {
        // The runtime goes on writing where it did: give the file its name back.
        tokio::fs::rename(&to, path).await.map_err(Error::io("rename back", &to))?;
        return Err(error);
    }
    for old in surplus(rotated_files(path), MAX_FILES - 1) {
        tokio::fs::remove_file(&old).await.map_err(Error::io("remove", &old))?;
    }
    Ok(true)
}

fn rotated_files(path: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (path.parent(), path.file_name()) else { return Vec::new() };
    let prefix = format!("{}.", name.to_string_lossy());
    let Ok(entries) = std::fs::read_dir(dir) else { return Vec::new() };
    entries.flatten().filter(|e| e.file_name().to_string_lossy().starts_with(&prefix)).map(|e| e.path()).collect()
}

/// The oldest of rotated files beyond `keep`; their names sort by time.
fn surplus(mut files: Vec<PathBuf>, keep: usize) -> Vec<PathBuf> {
    files.sort();
    let n = files.len().saturating_sub(keep);
    files.truncate(n);
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_rotated_files_go() {
        let files = ["0.log.20260103-1", "0.log.20260101-1", "0.log.20260102-1"].map(PathBuf::from).to_vec();
        assert_eq!(surplus(files.clone(), 2), [PathBuf::from("0.log.20260101-1")]);
        assert!(surplus(files, 4).is_empty());
    }
}
