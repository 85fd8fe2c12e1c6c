//! `cargo xtask codegen`: writes controlplane/machinery/src/schema/kinds.txt, the facts about the built-in kinds (field
//! names, numbers, types, merge keys), from an OpenAPI document and the struct tags of the Go types of one release.
//!
//! Neither input is part of the repository: the document is `/openapi/v2` of a stock API server, the types are the
//! k8s.io folder of a Kubernetes source tree (`staging/src/k8s.io`). Only facts are taken, no text.

mod emit;
mod golang;

use std::path::Path;

use anyhow::{Context, Result};

/// Read both inputs and write the table; answers with the lines written and what the inputs disagree about.
pub fn run(openapi: &Path, k8s_io: &Path, out: &Path) -> Result<(usize, Vec<String>)> {
    let text = std::fs::read(openapi).with_context(|| format!("reading {}", openapi.display()))?;
    let document: serde_json::Value =
        serde_json::from_slice(&text).with_context(|| format!("parsing {}", openapi.display()))?;
    let packages = golang::read(k8s_io)?;
    let (table, disagreements) = emit::table(&document, &packages)?;
    std::fs::write(out, &table).with_context(|| format!("writing {}", out.display()))?;
    Ok((table.lines().count(), disagreements))
}
