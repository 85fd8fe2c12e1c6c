//! `strake images`: images of the nodes on this host, without a registry.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};

#[derive(clap::Subcommand)]
pub enum Command {
    /// Load an OCI archive into every node on this host
    Import {
        /// The archive, as `docker save` or `skopeo copy ... oci-archive:` writes it
        file: PathBuf,
        #[command(flatten)]
        data: crate::DataDir,
    },
}

pub async fn run(command: Command) -> Result<()> {
    let Command::Import { file, data } = command;
    let file = std::fs::canonicalize(&file).with_context(|| format!("reading {}", file.display()))?;
    let nodes = local_nodes(&data)?;
    for (name, dir) in nodes {
        let socket = strake_agent::containers::socket(&dir);
        strake_agent::containers::import(&socket, &file).await.with_context(|| format!("on node {name}"))?;
        println!("{name}: {}", file.display());
    }
    Ok(())
}

/// Names and directories of the nodes on this host, by name.
pub fn local_nodes(data: &crate::DataDir) -> Result<Vec<(String, PathBuf)>> {
    let dir = data.data_dir.join("nodes");
    let entries = std::fs::read_dir(&dir)
        .with_context(|| format!("reading {} (is --data-dir right, and did a node ever run here?)", dir.display()))?;
    let mut nodes = Vec::new();
    for entry in entries {
        let entry = entry?;
        nodes.push((entry.file_name().to_string_lossy().into_owned(), entry.path()));
    }
    if nodes.is_empty() {
        bail!("no node has run under {}", dir.display());
    }
    nodes.sort();
    Ok(nodes)
}
