//! `strake conntrack`: the connections that the packet path of a node on this host tracks.

use std::io::Write;
use std::net::IpAddr;

use anyhow::{Result, bail};
use serde_json::Value;
use strake_agent_api::v1::{ConnectionFilter, FlushConnectionsRequest, ListConnectionsRequest, StatusRequest};

use crate::output::{self, Blocks, Columns, text};
use crate::service::{At, said};

const FLUSH: &str = "\
What becomes of a connection that is forgotten while it lives:
  through a Service, by packets (of a Pod that the socket hooks leave alone)
      Its next packet chooses a backend anew. A TCP connection goes on if that is the same one
      (the only one, or the one of ClientIP affinity), and any other resets it. A UDP flow goes
      on with whichever it is.
  through a Service, from outside the cluster
      TCP is reset by the node; the next UDP datagram chooses a backend anew.
  out of the cluster, masqueraded
      TCP hangs until its ends give up, as its packets leave with the Pod's own address; UDP and
      ICMP begin anew, with another port.
  any other, and what a socket hook translated
      It goes on and is no longer tracked: its end is not among the flows.";

#[derive(clap::Subcommand)]
pub enum Command {
    /// List tracked connections, both directions of each as one, both ends by name
    List {
        #[command(flatten)]
        filter: Filter,
        /// How to print
        #[arg(short, long, value_enum, default_value_t)]
        output: Columns,
        #[command(flatten)]
        at: At,
    },
    /// Show how full the maps of tracked connections are, and who opened most of those that live
    Top {
        #[command(flatten)]
        at: At,
    },
    /// Forget tracked connections; their next packets begin anew
    #[command(after_help = FLUSH)]
    Flush {
        #[command(flatten)]
        filter: Filter,
        /// Forget every connection of the node when no filter is given
        #[arg(long)]
        yes: bool,
        #[command(flatten)]
        at: At,
    },
}

#[derive(clap::Args, Default, PartialEq)]
pub struct Filter {
    /// Only connections with this address: an end's, the frontend's or the translated source's
    #[arg(long)]
    ip: Option<IpAddr>,
    /// Only connections with this port, likewise
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..))]
    port: Option<u16>,
    /// Only connections with this Pod at an end: NAMESPACE/NAME
    #[arg(long)]
    pod: Option<String>,
    /// Only connections through this Service: NAMESPACE/NAME
    #[arg(long)]
    service: Option<String>,
    /// Only connections of this protocol
    #[arg(long, value_enum)]
    proto: Option<Proto>,
    /// Only connections in this state
    #[arg(long, value_enum)]
    state: Option<State>,
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
pub enum Proto {
    Tcp,
    Udp,
    Sctp,
    Icmp,
}

impl Proto {
    /// The IANA number.
    pub fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
            Self::Icmp => 1,
        }
    }
}

#[derive(clap::ValueEnum, Clone, Copy, PartialEq, Eq)]
enum State {
    /// One side was seen
    New,
    /// Both sides were seen
    Established,
    /// One side has ended it
    Closing,
    /// Both sides have, or one has reset it
    Closed,
}

impl Filter {
    fn wire(&self) -> ConnectionFilter {
        let state = match self.state {
            None => "",
            Some(State::New) => "new",
            Some(State::Established) => "established",
            Some(State::Closing) => "closing",
            Some(State::Closed) => "closed",
        };
        ConnectionFilter {
            ip: self.ip.map(|ip| ip.to_string()).unwrap_or_default(),
            port: self.port.unwrap_or_default().into(),
            pod: self.pod.clone().unwrap_or_default(),
            service: self.service.clone().unwrap_or_default(),
            protocol: self.proto.map_or(0, Proto::number).into(),
            state: state.into(),
        }
    }
}

pub async fn run(command: Command) -> Result<()> {
    match command {
        Command::List { filter, output, at } => list(&filter, output, &at).await,
        Command::Top { at } => top(&at).await,
        Command::Flush { filter, yes, at } => flush(&filter, yes, &at).await,
    }
}

const HEAD: [&str; 9] = ["PROTO", "STATE", "FROM", "SERVICE", "TO", "AGE", "IDLE", "PACKETS", "BYTES"];
const WIDE: [&str; 8] =
    ["FRONTEND", "FROM ADDRESS", "SEEN AS", "TO ADDRESS", "AT", "FLAGS", "SERVICE ID", "BACKEND ID"];

async fn list(filter: &Filter, output: Columns, at: &At) -> Result<()> {
    let mut client = at.client().await?;
    let request = ListConnectionsRequest { filter: Some(filter.wire()) };
    let mut stream = client.list_connections(request).await.map_err(said)?.into_inner();
    let wide = output == Columns::Wide;
    let head = if wide { [&HEAD[..], &WIDE].concat() } else { HEAD.to_vec() };
    let mut blocks = Blocks::new(&head);
    let mut out = std::io::stdout().lock();
    while let Some(documents) = stream.message().await.map_err(said)? {
        for json in documents.json {
            match output {
                Columns::Json => writeln!(out, "{json}")?,
                Columns::Yaml => {
                    let document: Value = serde_json::from_str(&json)?;
                    write!(out, "---\n{}", serde_saphyr::to_string(&document)?)?;
                }
                Columns::Table | Columns::Wide => {
                    if let Some(block) = blocks.put(row(&serde_json::from_str(&json)?, wide)) {
                        writeln!(out, "{block}")?;
                    }
                }
            }
        }
    }
    if matches!(output, Columns::Table | Columns::Wide) {
        writeln!(out, "{}", blocks.last())?;
    }
    Ok(())
}

fn row(connection: &Value, wide: bool) -> Vec<String> {
    let number = |key: &str| connection[key].as_u64().unwrap_or_default();
    let service = match (&connection["service"], &connection["frontend"]) {
        (Value::String(service), Value::String(frontend)) => {
            format!("{service}:{}", frontend.rsplit(':').next().unwrap_or_default())
        }
        (Value::String(service), _) => service.clone(),
        // Its Service is gone, or the flow's row never knew it.
        (_, Value::String(frontend)) => frontend.clone(),
        _ => "-".into(),
    };
    let mut row = vec![
        text(connection, "protocol"),
        text(connection, "state"),
        end(&connection["source"]),
        service,
        end(&connection["destination"]),
        output::duration(number("ageSeconds")),
        output::duration(number("idleSeconds")),
        format!("{}/{}", number("packets"), number("replyPackets")),
        format!("{}/{}", number("bytes"), number("replyBytes")),
    ];
    if wide {
        let flags: Vec<&str> = connection["flags"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let or_dash = |value: &Value| value.as_str().unwrap_or("-").to_owned();
        row.extend([
            or_dash(&connection["frontend"]),
            address(&connection["source"]),
            or_dash(&connection["translatedSource"]),
            address(&connection["destination"]),
            text(connection, "border"),
            if flags.is_empty() { "-".into() } else { flags.join(",") },
            number("serviceId").to_string(),
            number("backendId").to_string(),
        ]);
    }
    row
}

/// By the Pod's name, the node's, or by address.
fn end(end: &Value) -> String {
    let name = match (&end["pod"], &end["node"]) {
        (Value::String(pod), _) => pod.clone(),
        (_, Value::String(node)) => format!("node/{node}"),
        _ => return address(end),
    };
    format!("{name}:{}", end["port"])
}

fn address(end: &Value) -> String {
    let ip = end["ip"].as_str().unwrap_or_default();
    if ip.contains(':') { format!("[{ip}]:{}", end["port"]) } else { format!("{ip}:{}", end["port"]) }
}

async fn top(at: &At) -> Result<()> {
    let reply = at.client().await?.status(StatusRequest {}).await.map_err(said)?.into_inner();
    let status: Value = serde_json::from_str(&reply.json)?;
    let datapath = &status["datapath"];
    let rooms = datapath["connections"].as_array().map(Vec::as_slice).unwrap_or_default();
    for room in rooms {
        println!(
            "{}   {} of {} rows are of connections that live ({} %), {} of ended ones",
            text(room, "map"),
            room["live"],
            room["capacity"],
            room["percent"],
            room["rows"].as_u64().unwrap_or_default().saturating_sub(room["live"].as_u64().unwrap_or_default()),
        );
    }
    println!("{} rows gave way to newer ones since the agent's start", datapath["connections_evicted"]);
    println!("{}", output::table(&["SOURCE", "ADDRESS", "ROWS", "OF THE MAP"], holders(rooms)));
    Ok(())
}

/// A line for each of those who opened most.
fn holders(rooms: &[Value]) -> Vec<Vec<String>> {
    let top = rooms.iter().flat_map(|room| room["top"].as_array().into_iter().flatten());
    let row = |holder: &Value| {
        let percent = format!("{} %", holder["percent"]);
        vec![text(holder, "source"), text(holder, "ip"), text(holder, "rows"), percent]
    };
    top.map(row).collect()
}

async fn flush(filter: &Filter, yes: bool, at: &At) -> Result<()> {
    let all = *filter == Filter::default();
    if all && !yes {
        bail!("this forgets every connection of the node; name some with a filter (see --help), or say --yes");
    }
    let request = FlushConnectionsRequest { filter: Some(filter.wire()), all };
    let flushed = at.client().await?.flush_connections(request).await.map_err(said)?.into_inner();
    match flushed.connections {
        0 => println!("no connection matched; nothing was removed"),
        1 => println!("1 connection removed ({} rows)", flushed.rows),
        many => println!("{many} connections removed ({} rows)", flushed.rows),
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn who_filled_the_maps_is_a_line_each_most_first() {
        let holder =
            |source: &str, rows: u64| json!({"source": source, "ip": "10.244.0.5", "rows": rows, "percent": 7});
        let rooms = [json!({"top": [holder("default/busy", 90), holder("node/n1", 2)]}), json!({"top": []})];
        let lines = holders(&rooms);
        assert_eq!(lines[0], ["default/busy", "10.244.0.5", "90", "7 %"]);
        assert_eq!(lines.len(), 2);
    }

    #[test]
    fn a_connection_is_one_line_with_names_where_there_are_any() {
        let connection = json!({
            "protocol": "TCP", "state": "established", "border": "pod",
            "source": {"ip": "10.244.0.5", "port": 40000, "pod": "default/client", "node": "n1"},
            "frontend": "10.96.0.7:80", "service": "default/web",
            "destination": {"ip": "fd00::6", "port": 8080},
            "translatedSource": null, "ageSeconds": 3700, "idleSeconds": 2,
            "packets": 3, "bytes": 200, "replyPackets": 2, "replyBytes": 140,
            "flags": ["translated"], "serviceId": 4, "backendId": 9,
        });
        let want = [
            "TCP",
            "established",
            "default/client:40000",
            "default/web:80",
            "[fd00::6]:8080",
            "1h1m",
            "2s",
            "3/2",
            "200/140",
        ];
        assert_eq!(row(&connection, false), want);
        let wide = row(&connection, true);
        assert_eq!(wide.len(), HEAD.len() + WIDE.len());
        assert_eq!(&wide[9..15], ["10.96.0.7:80", "10.244.0.5:40000", "-", "[fd00::6]:8080", "pod", "translated"]);
    }
}
