//! `strake service`: Services as the datapath of a node on this host has them.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, Result, bail};
use serde_json::Value;
use strake_agent_api::v1::operator_client::OperatorClient;
use strake_agent_api::v1::{Documents, ListServicesRequest, TraceConnectionRequest, TraceServiceRequest};
use tonic::transport::Channel;

use crate::conntrack::Proto;
use crate::output::{self, Columns, Format};

const EXAMPLES: &str = "\
Examples:
  strake service trace default/web
  strake service trace --from default/client --to 10.96.0.1:443
  strake service trace --from 192.0.2.9:40000 --from-outside --to 192.0.2.1:30080 --proto udp";

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
    /// Say what would happen to a connection, with the map entries that decide it
    ///
    /// Of a Service: what each of its addresses leads to. With --from and --to: what one connection meets, hook by hook.
    #[command(after_help = EXAMPLES)]
    Trace {
        /// NAMESPACE/NAME of a Service
        #[arg(required_unless_present = "to", conflicts_with_all = ["from", "to"])]
        service: Option<String>,
        /// Who connects: a Pod's NAMESPACE/NAME, its address or one of this node's, each with :PORT for a connection that
        /// exists; or `node`, a process of this node
        #[arg(long, requires = "to")]
        from: Option<String>,
        /// What is connected to: ADDRESS:PORT
        #[arg(long, requires = "from")]
        to: Option<SocketAddr>,
        /// The connection's protocol
        #[arg(long, value_enum, default_value = "tcp", requires = "to")]
        proto: Proto,
        /// It comes in from the network; --from is the client's address
        #[arg(long, requires = "to")]
        from_outside: bool,
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
const WIDE: [&str; 11] =
    ["NAMESPACE", "NAME", "TYPE", "FRONTEND", "KIND", "ANNOUNCED BY", "READY", "AFFINITY", "POLICY", "ID", "BACKENDS"];

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
        service["announcedBy"].as_str().unwrap_or("-").into(),
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
        Command::Trace { service, from, to, proto, from_outside, output, at } => {
            let json = match (service, from, to) {
                (Some(service), _, _) => {
                    let Some((namespace, name)) = service.split_once('/') else {
                        bail!("{service} is not NAMESPACE/NAME");
                    };
                    let request = TraceServiceRequest { namespace: namespace.into(), name: name.into() };
                    at.client().await?.trace_service(request).await.map_err(said)?.into_inner().json
                }
                (None, Some(from), Some(to)) => {
                    let (from, from_port) = origin(&from);
                    let (to, protocol) = (to.to_string(), proto.number().into());
                    let request = TraceConnectionRequest { from, from_port, to, protocol, from_outside };
                    at.client().await?.trace_connection(request).await.map_err(said)?.into_inner().json
                }
                _ => bail!("name a Service, or a connection by --from and --to"),
            };
            let document: Value = serde_json::from_str(&json)?;
            if output != Format::Table {
                return output::document(output, &document["trace"]);
            }
            println!("{}", document["text"].as_str().unwrap_or_default().trim_end());
            Ok(())
        }
    }
}

/// `NAME`, `ADDRESS`, `NAME:PORT`, `ADDRESS:PORT`; without a port it is 0.
fn origin(from: &str) -> (String, u32) {
    if let Ok(address) = from.parse::<SocketAddr>() {
        return (address.ip().to_string(), address.port().into());
    }
    if let Ok(address) = from.parse::<IpAddr>() {
        return (address.to_string(), 0);
    }
    match from.rsplit_once(':').and_then(|(name, port)| Some((name, port.parse::<u16>().ok()?))) {
        Some((name, port)) => (name.into(), port.into()),
        None => (from.into(), 0),
    }
}

/// The agent's words without the gRPC wrapping.
pub fn said(status: tonic::Status) -> anyhow::Error {
    anyhow::anyhow!("{}", status.message())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_a_name_or_an_address_with_or_without_a_port() {
        let read = |text| {
            let (from, port) = origin(text);
            format!("{from} {port}")
        };
        assert_eq!(read("default/web"), "default/web 0");
        assert_eq!(read("default/web:4000"), "default/web 4000");
        assert_eq!(read("10.244.0.5"), "10.244.0.5 0");
        assert_eq!(read("10.244.0.5:4000"), "10.244.0.5 4000");
        assert_eq!(read("fd00::5"), "fd00::5 0");
        assert_eq!(read("[fd00::5]:4000"), "fd00::5 4000");
        assert_eq!(read("node:4000"), "node 4000");
    }
}
