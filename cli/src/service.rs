//! `strake service`: Services as the datapath of a node on this host has them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use strake_agent_api::v1::operator_client::OperatorClient;
use strake_agent_api::v1::{ListServicesRequest, TraceServiceRequest};
use tonic::transport::Channel;

use crate::output::{self, Format};

#[derive(clap::Subcommand)]
pub enum Command {
    /// List frontends and their backends
    List {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        at: At,
    },
    /// Say what would happen to a connection to a Service, with the map entries that decide it
    Trace {
        /// NAMESPACE/NAME
        service: String,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
        #[command(flatten)]
        at: At,
    },
}

/// Which node's agent is asked.
#[derive(clap::Args)]
pub struct At {
    /// Ask this node [default: the first on this host]
    #[arg(long)]
    node: Option<String>,
    #[command(flatten)]
    data: crate::DataDir,
}

impl At {
    /// A client of that agent.
    pub async fn client(&self) -> Result<OperatorClient<Channel>> {
        let nodes = crate::images::local_nodes(&self.data)?;
        let dir: PathBuf = match &self.node {
            None => nodes.into_iter().next().map(|(_, dir)| dir),
            Some(name) => nodes.into_iter().find(|(n, _)| n == name).map(|(_, dir)| dir),
        }
        .with_context(|| format!("no node {} on this host", self.node.as_deref().unwrap_or_default()))?;
        let channel = strake_agent_api::connect(&dir.join("agent.sock")).await?;
        Ok(OperatorClient::new(channel))
    }
}

pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::List { output, at } => {
            let reply = at.client().await?.list_services(ListServicesRequest {}).await.map_err(said)?;
            let document: Value = serde_json::from_str(&reply.into_inner().json)?;
            if output != Format::Table {
                return output::document(output, &document);
            }
            let rows = document.as_array().into_iter().flatten().map(|s| {
                let text = |key: &str| s[key].as_str().map_or_else(|| s[key].to_string(), str::to_owned);
                let backends: Vec<&str> =
                    s["backends"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                vec![
                    text("namespace"),
                    text("name"),
                    text("frontend"),
                    if backends.is_empty() { "<none>".into() } else { backends.join(",") },
                ]
            });
            println!("{}", output::table(&["NAMESPACE", "NAME", "FRONTEND", "BACKENDS"], rows));
            Ok(())
        }
        Command::Trace { service, output, at } => {
            let Some((namespace, name)) = service.split_once('/') else {
                bail!("{service} is not NAMESPACE/NAME");
            };
            let request = TraceServiceRequest { namespace: namespace.into(), name: name.into() };
            let reply = at.client().await?.trace_service(request).await.map_err(said)?;
            let document: Value = serde_json::from_str(&reply.into_inner().json)?;
            if output != Format::Table {
                return output::document(output, &document["trace"]);
            }
            println!("{}", document["text"].as_str().unwrap_or_default().trim_end());
            Ok(())
        }
    }
}

/// The agent's words without the gRPC wrapping.
pub fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}
