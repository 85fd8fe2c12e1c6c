//! `strake backend`: the backends that the datapath of a node on this host holds.

use anyhow::Result;
use serde_json::Value;
use strake_agent_api::v1::ListBackendsRequest;

use crate::output::{self, Columns, text};
use crate::service::{At, documents, said};

const CONDITIONS: &str = "\
Conditions:
  ready        new connections go there
  terminating  its Pod is being deleted, and new connections go there because nothing else is ready
  lingering    its Pod is being deleted; it keeps the UDP flows it has and gets no new ones";

#[derive(clap::Subcommand)]
pub enum Command {
    /// List every backend once, with the Services that lead to it
    #[command(after_help = CONDITIONS)]
    List {
        /// Only the backends of this Service: NAMESPACE/NAME
        #[arg(long)]
        service: Option<String>,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Columns,
        #[command(flatten)]
        at: At,
    },
}

pub async fn run(command: Command) -> Result<()> {
    let Command::List { service, output, at } = command;
    let request = ListBackendsRequest { service: service.unwrap_or_default() };
    let rows = documents(at.client().await?.list_backends(request).await.map_err(said)?.into_inner()).await?;
    if let Some(format) = output.document() {
        return output::document(format, &Value::Array(rows));
    }
    let wide = output == Columns::Wide;
    let head = ["ID", "ADDRESS", "PROTO", "CONDITION", "POD", "NODE", "LOCAL", "SERVICES"];
    println!("{}", output::table(&head, rows.iter().map(|backend| row(backend, wide))));
    Ok(())
}

/// Of many Services the first is named, unless all are asked for.
fn row(backend: &Value, wide: bool) -> Vec<String> {
    let services: Vec<&str> = backend["services"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let services = match &services[..] {
        [] => "-".into(),
        [first, rest @ ..] if !wide && rest.len() > 1 => format!("{first} and {} more", rest.len()),
        all => all.join(","),
    };
    let host = backend["host"] == true;
    let or_dash = |key: &str| backend[key].as_str().unwrap_or("-").to_owned();
    vec![
        text(backend, "id"),
        text(backend, "address"),
        text(backend, "protocol"),
        text(backend, "condition"),
        or_dash("pod"),
        or_dash("node"),
        if host {
            "host"
        } else if backend["local"] == true {
            "yes"
        } else {
            "no"
        }
        .into(),
        services,
    ]
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_backend_of_many_services_names_the_first_or_all() {
        let backend = json!({
            "id": 3, "address": "10.244.0.5:8080", "protocol": "TCP", "condition": "ready", "local": true,
            "host": false, "pod": "default/web", "node": "n1", "services": ["a/x:1", "a/y:2", "a/z:3"],
        });
        assert_eq!(row(&backend, false).last().unwrap(), "a/x:1 and 2 more");
        assert_eq!(row(&backend, true).last().unwrap(), "a/x:1,a/y:2,a/z:3");
    }
}
