//! An OCI archive of one uncompressed layer around the machine's static busybox.

use std::path::Path;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

pub const NAME: &str = "strake.local/test-busybox:1";
pub const PAUSE: &str = "strake.local/pause:latest";

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

fn add(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, data: &[u8]) {
    let mut h = tar::Header::new_gnu();
    h.set_size(data.len() as u64);
    h.set_mode(mode);
    tar.append_data(&mut h, path, data).unwrap();
}

fn directory(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) {
    let mut h = tar::Header::new_gnu();
    h.set_entry_type(tar::EntryType::Directory);
    h.set_size(0);
    h.set_mode(mode);
    tar.append_data(&mut h, path, std::io::empty()).unwrap();
}

/// Writes the archive: two names, one image whose default command sleeps.
pub fn write(to: &Path) {
    let busybox = ["/usr/bin/busybox", "/bin/busybox"].iter().find_map(|p| std::fs::read(p).ok());
    let busybox = busybox.expect("this test needs busybox-static");
    let mut layer = tar::Builder::new(Vec::new());
    for d in ["bin/", "etc/", "dev/", "proc/", "sys/", "tmp/"] {
        directory(&mut layer, d, if d == "tmp/" { 0o1777 } else { 0o755 });
    }
    add(&mut layer, "bin/busybox", 0o755, &busybox);
    for tool in [
        "sh", "sleep", "cat", "echo", "env", "ls", "id", "touch", "kill", "true", "false", "stat", "readlink",
        "hostname", "mount", "httpd",
    ] {
        let mut h = tar::Header::new_gnu();
        h.set_entry_type(tar::EntryType::Symlink);
        h.set_size(0);
        h.set_mode(0o777);
        layer.append_link(&mut h, format!("bin/{tool}"), "busybox").unwrap();
    }
    add(&mut layer, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n");
    let layer = layer.into_inner().unwrap();
    let config = json!({"architecture": if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" }, "os": "linux",
        "config": {"Env": ["PATH=/bin"], "Entrypoint": ["/bin/sleep"], "Cmd": ["2147483647"]},
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", digest(&layer))]}})
    .to_string()
    .into_bytes();
    let describe = |kind: &str, bytes: &[u8]| -> Value {
        json!({"mediaType": kind, "digest": format!("sha256:{}", digest(bytes)), "size": bytes.len()})
    };
    let manifest = json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": describe("application/vnd.oci.image.config.v1+json", &config),
        "layers": [describe("application/vnd.oci.image.layer.v1.tar", &layer)]})
    .to_string()
    .into_bytes();
    let named = |name: &str| {
        let mut d = describe("application/vnd.oci.image.manifest.v1+json", &manifest);
        d["annotations"] = json!({"io.containerd.image.name": name});
        d
    };
    let index = json!({"schemaVersion": 2, "manifests": [named(NAME), named(PAUSE)]}).to_string();
    let mut archive = tar::Builder::new(Vec::new());
    add(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#);
    add(&mut archive, "index.json", 0o644, index.as_bytes());
    for blob in [&layer, &config, &manifest] {
        add(&mut archive, &format!("blobs/sha256/{}", digest(blob)), 0o644, blob);
    }
    std::fs::write(to, archive.into_inner().unwrap()).unwrap();
}
