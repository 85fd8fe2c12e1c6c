//! `strake status`: the cluster and the nodes on this host, at a glance, or waited for.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Node;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client};
use serde_json::{Value, json};
use strake_agent_api::v1::StatusRequest;
use strake_agent_api::v1::operator_client::OperatorClient;

use crate::output::{self, Format};

#[derive(clap::Args)]
pub struct Args {
    /// Return when this many nodes are Ready
    #[arg(long)]
    wait: bool,
    /// How many nodes to wait for
    #[arg(long, default_value_t = 1, requires = "wait")]
    nodes: usize,
    /// Give up after this many seconds
    #[arg(long, default_value_t = 120, requires = "wait")]
    timeout: u64,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
    #[command(flatten)]
    data: crate::DataDir,
}

pub async fn run(args: Args) -> Result<()> {
    let kubeconfig = args.data.data_dir.join("admin.kubeconfig");
    if args.wait {
        let limit = Duration::from_secs(args.timeout);
        return tokio::time::timeout(limit, wait(&kubeconfig, args.nodes))
            .await
            .with_context(|| format!("{} node(s) were not Ready after {} s", args.nodes, args.timeout))?;
    }
    let mut nodes = Vec::new();
    for (name, dir) in crate::images::local_nodes(&args.data)? {
        nodes.push(match agent(&dir).await {
            Ok(status) => json!({"node": name, "agent": "running", "status": status}),
            Err(error) => json!({"node": name, "agent": format!("{error:#}")}),
        });
    }
    let server = match server(&kubeconfig).await {
        Err(_) if !kubeconfig.exists() => {
            json!({"state": format!("none of ours here ({} is not there)", kubeconfig.display())})
        }
        Ok(version) => json!({"state": "running", "version": version}),
        Err(error) => json!({"state": format!("{error:#}")}),
    };
    let document = json!({"apiServer": server, "nodes": nodes});
    if args.output != Format::Table {
        return output::document(args.output, &document);
    }
    println!("API server   {} {}", text(&document["apiServer"]["state"]), text(&document["apiServer"]["version"]));
    for node in &nodes {
        println!("\nnode {}   agent {}", text(&node["node"]), text(&node["agent"]));
        for (key, value) in flatten(&node["status"]) {
            println!("  {key:34} {value}");
        }
    }
    Ok(())
}

async fn client(kubeconfig: &Path) -> Result<Client> {
    let parsed = kube::config::Kubeconfig::read_from(kubeconfig)
        .with_context(|| format!("reading {} (does a server run with this --data-dir?)", kubeconfig.display()))?;
    let config = kube::Config::from_custom_kubeconfig(parsed, &Default::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn server(kubeconfig: &Path) -> Result<String> {
    Ok(client(kubeconfig).await?.apiserver_version().await?.git_version)
}

async fn agent(dir: &Path) -> Result<Value> {
    let channel = strake_agent_api::connect(&dir.join("agent.sock")).await?;
    let reply = OperatorClient::new(channel).status(StatusRequest {}).await.map_err(crate::service::said)?;
    Ok(serde_json::from_str(&reply.into_inner().json)?)
}

/// Waits for the kubeconfig, then for Ready nodes, by a watch.
async fn wait(kubeconfig: &Path, nodes: usize) -> Result<()> {
    while !kubeconfig.exists() {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let api: Api<Node> = Api::all(client(kubeconfig).await?);
    let mut ready: BTreeMap<String, bool> = BTreeMap::new();
    let mut events = std::pin::pin!(watcher(api, watcher::Config::default()).default_backoff().applied_objects());
    loop {
        match events.try_next().await {
            Ok(Some(node)) => {
                let conditions = node.status.and_then(|s| s.conditions).unwrap_or_default();
                let is_ready = conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True");
                ready.insert(node.metadata.name.unwrap_or_default(), is_ready);
                if ready.values().filter(|r| **r).count() >= nodes {
                    return Ok(());
                }
            }
            Ok(None) => {}
            // The server is not there yet, or not any more: the watcher tries again with a pause.
            Err(error) => tracing::debug!(%error, "watching nodes"),
        }
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

/// `a.b  value` for each leaf; a list takes a line an item, and counters that are zero none.
fn flatten(value: &Value) -> Vec<(String, String)> {
    let mut out = Vec::new();
    walk(value, String::new(), &mut out);
    out
}

fn walk(value: &Value, path: String, out: &mut Vec<(String, String)>) {
    let join = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    match value {
        Value::Object(map) => map.iter().for_each(|(key, value)| walk(value, join(key), out)),
        Value::Array(list) if list.iter().any(Value::is_object) => {
            for item in list {
                let mut fields = Vec::new();
                walk(item, String::new(), &mut fields);
                let words: Vec<String> = fields.into_iter().map(|(key, value)| format!("{key}={value}")).collect();
                out.push((path.clone(), words.join("  ")));
            }
        }
        Value::Number(number) if number.as_u64() == Some(0) => {}
        Value::Array(list) => {
            let words: Vec<String> = list.iter().map(scalar).collect();
            out.push((path, words.join(" ")));
        }
        Value::Null => {}
        other => out.push((path, scalar(other))),
    }
}

fn scalar(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_is_flattened_to_lines() {
        let lines = flatten(&json!({"a": {"b": 1, "c": ["x", "y"]}, "d": [{"e": true, "g": 2}], "f": null, "h": 0}));
        let want = [("a.b", "1"), ("a.c", "x y"), ("d", "e=true  g=2")];
        assert_eq!(lines, want.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }
}
