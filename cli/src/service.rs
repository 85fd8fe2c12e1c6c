//! `strake service`: Services as the datapath of a node on this host has them.

use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use strake_agent_api::v1::operator_client::OperatorClient;
use strake_agent_api::v1::{Documents, ListServicesRequest, TraceServiceRequest};
use tonic::transport::Channel;

use crate::output::{self, Columns, Format};

#[derive(clap::Subcommand)]
pub enum Command {
    /// List frontends and their backends
    List {
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Columns,
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

const HEAD: [&str; 4] = ["NAMESPACE", "NAME", "FRONTEND", "BACKENDS"];
const WIDE: [&str; 10] =
    ["NAMESPACE", "NAME", "TYPE", "FRONTEND", "KIND", "READY", "AFFINITY", "POLICY", "ID", "BACKENDS"];

fn row(service: &Value, wide: bool) -> Vec<String> {
    let text = |key: &str| output::text(service, key);
    let backends: Vec<&str> = service["backends"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let backends = if backends.is_empty() { "<none>".into() } else { backends.join(",") };
    if !wide {
        return vec![text("namespace"), text("name"), text("frontend"), backends];
    }
    let affinity = match service["affinitySeconds"].as_u64() {
        None | Some(0) => "None".into(),
        Some(seconds) => format!("ClientIP {}", output::duration(seconds)),
    };
    vec![
        text("namespace"),
        text("name"),
        service["type"].as_str().unwrap_or("-").into(),
        text("frontend"),
        text("kind"),
        format!("{}/{}", text("ready"), text("total")),
        affinity,
        text("policy"),
        text("id"),
        backends,
    ]
}

/// All of a streamed list.
pub async fn documents(mut stream: tonic::Streaming<Documents>) -> Result<Vec<Value>> {
    let mut all = Vec::new();
    while let Some(documents) = stream.message().await.map_err(said)? {
        for json in documents.json {
            all.push(serde_json::from_str(&json)?);
        }
    }
    Ok(all)
}

pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::List { output, at } => {
            let reply = at.client().await?.list_services(ListServicesRequest {}).await.map_err(said)?;
            let rows = documents(reply.into_inner()).await?;
            if let Some(format) = output.document() {
                return output::document(format, &Value::Array(rows));
            }
            let wide = output == Columns::Wide;
            let head = if wide { &WIDE[..] } else { &HEAD };
            println!("{}", output::table(head, rows.iter().map(|service| row(service, wide))));
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
