//! The cluster's own images, as OCI archives made without a registry or an image builder.
//!
//! An archive is one `.tar` in OCI image-layout form (image-spec 1.0): `oci-layout`, `index.json` and `blobs/sha256/*`.
//! containerd's importer names the image after the `io.containerd.image.name` annotation. Layers are uncompressed:
//! they are read once, from local disk.
//!
//! This module knows nothing of containerd or of the cluster; it turns files into bytes.
#![forbid(unsafe_code)]

use std::io;

use serde_json::json;
use sha2::{Digest, Sha256};

/// The sandbox image every Pod starts from.
pub const PAUSE_IMAGE: &str = "strake.io/pause:1";
/// The image of `cargo xtask up`'s demo and of the cluster tests.
pub const DEMO_IMAGE: &str = "strake.io/demo:1";

static PAUSE_ELF: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/pause"));

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("writing the archive of image {image}: {source}")]
    Archive { image: String, source: io::Error },
}

/// One regular file of an image.
pub struct File<'a> {
    /// Path in the image, without a leading slash.
    pub path: &'a str,
    pub mode: u32,
    pub content: &'a [u8],
}

/// What an image is made of. Symbolic links are (path, target) pairs.
pub struct Image<'a> {
    pub name: &'a str,
    pub files: &'a [File<'a>],
    pub links: &'a [(&'a str, &'a str)],
    pub entrypoint: &'a [&'a str],
    pub env: &'a [&'a str],
    /// `uid[:gid]`, empty for root.
    pub user: &'a str,
}

/// The sandbox image as an OCI archive.
pub fn pause_archive() -> Result<Vec<u8>, Error> {
    archive(&Image {
        name: PAUSE_IMAGE,
        files: &[File { path: "pause", mode: 0o755, content: PAUSE_ELF }],
        links: &[],
        entrypoint: &["/pause"],
        env: &[],
        user: "65535:65535",
    })
}

/// Writes `image` as an OCI archive. The same input gives the same bytes.
pub fn archive(image: &Image<'_>) -> Result<Vec<u8>, Error> {
    build(image).map_err(|source| Error::Archive { image: image.name.to_owned(), source })
}

fn build(image: &Image<'_>) -> io::Result<Vec<u8>> {
    let layer = layer(image)?;
    let layer_digest = digest(&layer);
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let config = serde_json::to_vec(&json!({
        "architecture": arch,
        "os": "linux",
        "config": {"Entrypoint": image.entrypoint, "Env": image.env, "User": image.user, "WorkingDir": "/"},
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
    }))?;
    let config_digest = digest(&config);
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": config_digest, "size": config.len()},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": layer_digest, "size": layer.len()}],
    }))?;
    let manifest_digest = digest(&manifest);
    let tag = image.name.rsplit_once(':').map_or("latest", |(_, tag)| tag);
    let index = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.index.v1+json",
        "manifests": [{
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": manifest_digest,
            "size": manifest.len(),
            "platform": {"architecture": arch, "os": "linux"},
            "annotations": {"io.containerd.image.name": image.name, "org.opencontainers.image.ref.name": tag},
        }],
    }))?;

    let mut out = tar::Builder::new(Vec::new());
    put(&mut out, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    put(&mut out, "index.json", 0o644, &index)?;
    for (name, blob) in [(&layer_digest, &layer), (&config_digest, &config), (&manifest_digest, &manifest)] {
        put(&mut out, &format!("blobs/{}", name.replace(':', "/")), 0o644, blob)?;
    }
    out.into_inner()
}

fn layer(image: &Image<'_>) -> io::Result<Vec<u8>> {
    let mut out = tar::Builder::new(Vec::new());
    for dir in ["etc", "tmp", "bin"] {
        let mut header = header(tar::EntryType::Directory, if dir == "tmp" { 0o1777 } else { 0o755 }, 0);
        out.append_data(&mut header, format!("{dir}/"), io::empty())?;
    }
    for file in image.files {
        put(&mut out, file.path, file.mode, file.content)?;
    }
    for (path, target) in image.links {
        let mut header = header(tar::EntryType::Symlink, 0o777, 0);
        out.append_link(&mut header, path, target)?;
    }
    put(&mut out, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n")?;
    put(&mut out, "etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    out.into_inner()
}

fn put(out: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
    let mut header = header(tar::EntryType::Regular, mode, content.len() as u64);
    out.append_data(&mut header, path, content)
}

fn header(kind: tar::EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_size(size);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}

fn digest(bytes: &[u8]) -> String {
    let mut out = String::from("sha256:");
    for byte in Sha256::digest(bytes) {
        out.push_str(&format!("{byte:02x}"));
    }
    out
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn entries(archive: &[u8]) -> Vec<(String, Vec<u8>)> {
        let mut tar = tar::Archive::new(archive);
        tar.entries()
            .unwrap()
            .map(|e| {
                let mut e = e.unwrap();
                let mut content = Vec::new();
                e.read_to_end(&mut content).unwrap();
                (e.path().unwrap().display().to_string(), content)
            })
            .collect()
    }

    #[test]
    fn every_blob_is_stored_under_its_own_digest() {
        for (path, content) in entries(&pause_archive().unwrap()) {
            if let Some(hex) = path.strip_prefix("blobs/sha256/") {
                assert_eq!(digest(&content), format!("sha256:{hex}"));
            }
        }
    }

    #[test]
    fn the_index_leads_to_the_pause_program() {
        let files: std::collections::HashMap<_, _> = entries(&pause_archive().unwrap()).into_iter().collect();
        let blob = |d: &serde_json::Value| {
            files[&format!("blobs/{}", d["digest"].as_str().unwrap().replace(':', "/"))].clone()
        };
        let index: serde_json::Value = serde_json::from_slice(&files["index.json"]).unwrap();
        assert_eq!(index["manifests"][0]["annotations"]["io.containerd.image.name"], PAUSE_IMAGE);
        let manifest: serde_json::Value = serde_json::from_slice(&blob(&index["manifests"][0])).unwrap();
        let layer = blob(&manifest["layers"][0]);
        let pause = entries(&layer).into_iter().find(|(p, _)| p == "pause").unwrap().1;
        assert_eq!(&pause[..4], b"\x7fELF");
        assert!(pause.len() < 64 * 1024, "the pause program grew to {} bytes", pause.len());
    }

    #[test]
    fn the_pause_program_leaves_on_sigterm() {
        let dir = std::env::temp_dir().join(format!("strake-pause-{}", std::process::id()));
        std::fs::write(&dir, PAUSE_ELF).unwrap();
        std::fs::set_permissions(&dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut child = std::process::Command::new(&dir).spawn().unwrap();
        // Blocked signals stay pending, so it does not matter whether the program has reached its loop.
        std::process::Command::new("kill").args(["-TERM", &child.id().to_string()]).status().unwrap();
        let status = child.wait().unwrap();
        std::fs::remove_file(&dir).unwrap();
        // Before it blocks the signals, the default action ends it as well: both are an end.
        assert!(status.code() == Some(0) || status.code().is_none(), "{status}");
    }
}
