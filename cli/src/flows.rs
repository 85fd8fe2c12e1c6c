//! `strake flows`: what the datapath of each node on this host decided, as one stream.

use std::io::{IsTerminal, Write};

use anyhow::{Context, Result, bail};
use futures::{StreamExt, stream::SelectAll};
use serde_json::json;
use strake_flow::proto::{self, get_flows_response::Item};

use crate::output::Format;

/// Where reasons are explained; a test holds that table to the datapath's enum.
const REASONS: &str = "\
A refused flow ends with its reason, e.g. no_endpoints. docs/drops.md says what each means,
what usually causes it and what to do.";

#[derive(clap::Args)]
#[command(after_help = REASONS)]
pub struct Args {
    /// Go on with what comes
    #[arg(short, long)]
    follow: bool,
    /// How many of the remembered flows to begin with [default: 20, or 0 with --follow]
    #[arg(long)]
    last: Option<u32>,
    /// Only flows with an end or a Service in this namespace (may be repeated)
    #[arg(short, long)]
    namespace: Vec<String>,
    /// Only flows with this Pod at an end: NAME or NAMESPACE/NAME, `*` at the end matches any rest
    #[arg(long)]
    pod: Vec<String>,
    /// Only flows through this Service: NAME or NAMESPACE/NAME
    #[arg(long)]
    service: Vec<String>,
    /// Only flows with this port: the destination's, the backend's or the VIP's
    #[arg(long)]
    port: Option<u16>,
    /// Only flows with this verdict
    #[arg(long, value_enum)]
    verdict: Vec<Verdict>,
    /// How to print: a line a flow, or a JSON object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    data: crate::DataDir,
}

#[derive(clap::ValueEnum, Clone, Copy)]
enum Verdict {
    /// It went on, to a backend where a Service was used
    Forwarded,
    /// Refused with an answer: connection refused, reset, unreachable
    Rejected,
    /// Discarded without an answer
    Dropped,
}

impl From<Verdict> for proto::Verdict {
    fn from(verdict: Verdict) -> Self {
        match verdict {
            Verdict::Forwarded => Self::Forwarded,
            Verdict::Rejected => Self::Rejected,
            Verdict::Dropped => Self::Dropped,
        }
    }
}

pub async fn run(args: Args) -> Result<()> {
    let request = proto::GetFlowsRequest {
        filter: Some(proto::Filter {
            namespaces: args.namespace.clone(),
            pods: args.pod.clone(),
            services: args.service.clone(),
            port: args.port.unwrap_or_default().into(),
            verdicts: args.verdict.iter().map(|v| proto::Verdict::from(*v).into()).collect(),
            kinds: Vec::new(),
        }),
        last: args.last.unwrap_or(if args.follow { 0 } else { 20 }),
        follow: args.follow,
    };
    let mut streams = SelectAll::new();
    let mut refused = Vec::new();
    let nodes = crate::images::local_nodes(&args.data)?;
    for (name, dir) in &nodes {
        match strake_flow::connect(&dir.join("agent.sock")).await {
            Ok(mut client) => streams.push(client.get_flows(request.clone()).await?.into_inner()),
            Err(error) => refused.push(format!("{name}: {error}")),
        }
    }
    if refused.len() == nodes.len() {
        bail!("no node answers\n  {}", refused.join("\n  "));
    }
    for line in refused {
        eprintln!("strake: not shown: {line}");
    }
    if args.follow {
        while let Some(response) = streams.next().await {
            print(args.output, response.context("the agent ended the stream")?.item)?;
        }
        return Ok(());
    }
    // Nodes answer side by side; people read in order of time.
    let mut items = Vec::new();
    while let Some(response) = streams.next().await {
        items.extend(response.context("the agent ended the stream")?.item);
    }
    items.sort_by_key(|item| match item {
        Item::Flow(flow) => flow.time_ns,
        Item::Lost(lost) => lost.time_ns,
    });
    let wanted = request.last as usize;
    let skip = if wanted == 0 { 0 } else { items.len().saturating_sub(wanted) };
    items.into_iter().skip(skip).try_for_each(|item| print(args.output, Some(item)))
}

fn print(format: Format, item: Option<Item>) -> Result<()> {
    let Some(item) = item else { return Ok(()) };
    let mut out = std::io::stdout().lock();
    match format {
        Format::Json => writeln!(out, "{}", json(&item))?,
        Format::Yaml => write!(out, "---\n{}", serde_saphyr::to_string(&json(&item))?)?,
        Format::Table => writeln!(out, "{}", line(&item))?,
    }
    Ok(())
}

/// `default/client:41022 -> default/web:80 (10.96.31.7) -> default/web-1:8080`, as far as names are known.
fn line(item: &Item) -> String {
    match item {
        Item::Lost(lost) => {
            format!("{}  LOST    {} events ({})", time(lost.time_ns), lost.count, place(lost.r#where()))
        }
        Item::Flow(flow) => {
            let verdict = flow.verdict().as_str_name();
            let verdict = match flow.verdict() {
                proto::Verdict::Forwarded => format!("{verdict:9}"),
                _ if std::io::stdout().is_terminal() => format!("\x1b[31m{verdict:9}\x1b[0m"),
                _ => format!("{verdict:9}"),
            };
            let mut path = end(flow.source.as_ref());
            if !flow.frontend_ip.is_empty() {
                path += &format!(
                    " -> {}/{}:{} ({})",
                    flow.service_namespace, flow.service_name, flow.frontend_port, flow.frontend_ip
                );
            }
            path += &format!(" -> {}", end(flow.destination.as_ref()));
            let protocol = protocol(flow.protocol);
            let kind = flow.kind().as_str_name();
            let why = match flow.reason.as_str() {
                "none" | "" => String::new(),
                reason => format!("  {reason}"),
            };
            let counts = match flow.kind() {
                proto::Kind::Close => format!("  {} bytes out, {} in", flow.bytes, flow.reply_bytes),
                _ => String::new(),
            };
            format!("{}  {kind:7} {verdict} {protocol:4} {path}{why}{counts} [{}]", time(flow.time_ns), flow.hook)
        }
    }
}

fn end(end: Option<&proto::End>) -> String {
    let Some(end) = end else { return "?".into() };
    let name = if !end.pod.is_empty() {
        format!("{}/{}", end.namespace, end.pod)
    } else if !end.node.is_empty() {
        format!("node/{}", end.node)
    } else {
        end.ip.clone()
    };
    if end.port == 0 { name } else { format!("{name}:{}", end.port) }
}

fn protocol(number: u32) -> String {
    match number {
        1 => "ICMP".into(),
        6 => "TCP".into(),
        17 => "UDP".into(),
        58 => "ICMPv6".into(),
        132 => "SCTP".into(),
        other => other.to_string(),
    }
}

fn place(place: proto::lost::Where) -> &'static str {
    match place {
        proto::lost::Where::RingBuffer => "the ring buffer was full",
        proto::lost::Where::Reader => "this reader was too slow",
        proto::lost::Where::Unspecified => "nobody knows where",
    }
}

fn time(ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns))
        .map_or_else(|_| String::new(), |t| t.strftime("%H:%M:%S%.3f").to_string())
}

fn json(item: &Item) -> serde_json::Value {
    match item {
        Item::Lost(lost) => {
            json!({"time": stamp(lost.time_ns), "lost": lost.count, "where": lost.r#where().as_str_name()})
        }
        Item::Flow(flow) => json!({
            "time": stamp(flow.time_ns),
            "kind": flow.kind().as_str_name(),
            "verdict": flow.verdict().as_str_name(),
            "reason": flow.reason,
            "protocol": protocol(flow.protocol),
            "source": end_json(flow.source.as_ref()),
            "destination": end_json(flow.destination.as_ref()),
            "service": (!flow.service_name.is_empty()).then(|| json!({"namespace": flow.service_namespace, "name": flow.service_name})),
            "frontend": (!flow.frontend_ip.is_empty()).then(|| json!({"ip": flow.frontend_ip, "port": flow.frontend_port})),
            "hook": flow.hook,
            "node": flow.node,
            "socketCookie": flow.socket_cookie,
            "pid": flow.pid,
            "bytes": flow.bytes,
            "replyBytes": flow.reply_bytes,
        }),
    }
}

fn stamp(ns: u64) -> String {
    jiff::Timestamp::from_nanosecond(i128::from(ns)).map_or_else(|_| ns.to_string(), |t| t.to_string())
}

fn end_json(end: Option<&proto::End>) -> serde_json::Value {
    end.map_or(serde_json::Value::Null, |end| {
        json!({
            "ip": end.ip, "port": end.port, "namespace": end.namespace, "pod": end.pod,
            "workload": end.workload, "node": end.node,
        })
    })
}
