//! The container runtime of a node: a containerd of ours, or one that is there; and the images it is given.

use std::path::{Path, PathBuf};
use std::time::Duration;

use strake_kubelet::containerd;
use tokio::process::Command;

use crate::{Config, Error};

/// Where CRI keeps what it owns.
const NAMESPACE: &str = "k8s.io";

/// The runtime's socket, for a node directory whose runtime is ours.
pub fn socket(node_dir: &Path) -> PathBuf {
    node_dir.join("containerd/containerd.sock")
}

/// A runtime that answers.
pub struct Runtime {
    pub socket: PathBuf,
    /// Ours to keep running; none where it was there already.
    pub own: Option<containerd::Containerd>,
}

/// Makes sure a runtime answers and knows the sandbox image.
///
/// A containerd that survived its agent is adopted: no container notices.
pub async fn ensure(config: &Config) -> Result<Runtime, Error> {
    if let Some(socket) = &config.container_runtime {
        return Ok(Runtime { socket: socket.clone(), own: None });
    }
    let dir = config.node_dir();
    let cni = dir.join("cni");
    let parent = config.cgroup_parent.rsplit_once('/').map_or("", |(parent, _)| parent);
    let mut options = containerd::Options::under(&dir.join("containerd"));
    options.socket = socket(&dir);
    options.sandbox_image = strake_images::PAUSE_IMAGE.into();
    options.cni_bin_dir = cni.join("bin");
    options.cni_conf_dir = cni.join("net.d");
    options.cgroup = Some(format!("{parent}/runtime"));
    options.start_timeout = Duration::from_secs(30);
    let socket = options.socket.clone();
    let own = containerd::ensure(options).await.map_err(|e| Error::Runtime(e.to_string()))?;
    if !has_image(&socket, strake_images::PAUSE_IMAGE).await? {
        let archive = strake_images::pause_archive().map_err(|e| Error::Runtime(e.to_string()))?;
        let path = dir.join("pause.tar");
        tokio::fs::write(&path, archive).await.map_err(Error::io(format!("writing {}", path.display())))?;
        import(&socket, &path).await?;
    }
    Ok(Runtime { socket, own: Some(own) })
}

/// Loads an OCI archive into the runtime behind `socket`, where CRI finds it.
pub async fn import(socket: &Path, archive: &Path) -> Result<(), Error> {
    ctr(socket, &["images", "import", &archive.display().to_string()]).await.map(drop)
}

async fn has_image(socket: &Path, name: &str) -> Result<bool, Error> {
    let listed = ctr(socket, &["images", "ls", "--quiet", &format!("name=={name}")]).await?;
    Ok(listed.lines().any(|l| l.trim() == name))
}

/// containerd's own client: importing is not part of CRI.
async fn ctr(socket: &Path, args: &[&str]) -> Result<String, Error> {
    let what = format!("ctr {}", args.join(" "));
    let output = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", NAMESPACE])
        .args(args)
        .output()
        .await
        .map_err(Error::io(format!("starting `{what}` (it comes with containerd)")))?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        return Err(Error::Runtime(format!(
            "`{what}` on {} ended with {}: {}",
            socket.display(),
            output.status,
            stderr.trim()
        )));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
