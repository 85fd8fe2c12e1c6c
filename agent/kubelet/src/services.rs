//! What the env variables of Services need: a watch of all Services, kept as names, addresses and ports only.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use futures::{StreamExt as _, TryStreamExt as _};
use k8s_openapi::api::core::v1::Service;
use kube::Api;
use kube::runtime::watcher;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

/// A Service with a cluster IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Cluster IP.
    pub ip: String,
    /// Name (may be empty), protocol, port.
    pub ports: Vec<(String, String, i32)>,
}

type Table = HashMap<String, BTreeMap<String, Entry>>;

/// The Services of the cluster, by namespace and name.
#[derive(Clone)]
pub struct Services {
    table: watch::Receiver<Option<Table>>,
    _task: Arc<AbortOnDropHandle<()>>,
}

fn entry(s: &Service) -> Option<Entry> {
    let spec = s.spec.as_ref()?;
    let ip = spec.cluster_ip.clone().filter(|ip| !ip.is_empty() && ip != "None")?;
    let ports = spec
        .ports
        .iter()
        .flatten()
        .map(|p| (p.name.clone().unwrap_or_default(), p.protocol.clone().unwrap_or_else(|| "TCP".into()), p.port));
    Some(Entry { ip, ports: ports.collect() })
}

fn apply(table: &mut Table, s: &Service) {
    let (Some(ns), Some(name)) = (s.metadata.namespace.clone(), s.metadata.name.clone()) else { return };
    match entry(s) {
        Some(e) => {
            table.entry(ns).or_default().insert(name, e);
        }
        None => {
            if let Some(names) = table.get_mut(&ns) {
                names.remove(&name);
            }
        }
    }
}

impl Services {
    /// Starts the watch.
    pub fn start(client: kube::Client) -> Self {
        let (tx, table) = watch::channel(None);
        let task = tokio::spawn(async move {
            let api: Api<Service> = Api::all(client);
            let mut events = watcher(api, watcher::Config::default()).boxed();
            let mut listing = Table::new();
            let mut pause = Duration::from_millis(100);
            loop {
                match events.try_next().await {
                    Ok(None) => return,
                    Ok(Some(event)) => {
                        pause = Duration::from_millis(100);
                        match event {
                            watcher::Event::Init => listing.clear(),
                            watcher::Event::InitApply(s) => apply(&mut listing, &s),
                            watcher::Event::InitDone => {
                                tx.send_replace(Some(std::mem::take(&mut listing)));
                            }
                            watcher::Event::Apply(s) => tx.send_modify(|t| apply(t.get_or_insert_default(), &s)),
                            watcher::Event::Delete(mut s) => tx.send_modify(|t| {
                                s.spec = None;
                                apply(t.get_or_insert_default(), &s);
                            }),
                        }
                    }
                    Err(error) => {
                        tracing::debug!(%error, "watching services");
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(Duration::from_secs(10));
                    }
                }
            }
        });
        Self { table, _task: Arc::new(AbortOnDropHandle::new(task)) }
    }

    /// The Services a Pod in `namespace` is told of by env variables: its namespace's when `links`, and the master's
    /// always. Waits for the first list.
    pub async fn visible(&self, namespace: &str, links: bool) -> BTreeMap<String, Entry> {
        let mut rx = self.table.clone();
        let Ok(table) = rx.wait_for(Option::is_some).await else { return BTreeMap::new() };
        let mut out = BTreeMap::new();
        if let Some(t) = table.as_ref() {
            if let Some(e) = t.get("default").and_then(|n| n.get("kubernetes")) {
                out.insert("kubernetes".to_owned(), e.clone());
            }
            if links {
                out.extend(t.get(namespace).into_iter().flatten().map(|(n, e)| (n.clone(), e.clone())));
            }
        }
        out
    }
}

/// The variables of these Services, in the Docker links form.
pub fn variables(services: &BTreeMap<String, Entry>) -> Vec<(String, String)> {
    let mut out = Vec::new();
    for (name, e) in services {
        let up = name.to_uppercase().replace('-', "_");
        let ip = &e.ip;
        let Some((_, first_protocol, first_port)) = e.ports.first() else { continue };
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.clone() };
        out.push((format!("{up}_SERVICE_HOST"), ip.clone()));
        out.push((format!("{up}_SERVICE_PORT"), first_port.to_string()));
        for (port_name, _, port) in &e.ports {
            if !port_name.is_empty() {
                let port_name = port_name.to_uppercase().replace('-', "_");
                out.push((format!("{up}_SERVICE_PORT_{port_name}"), port.to_string()));
            }
        }
        out.push((format!("{up}_PORT"), format!("{}://{host}:{first_port}", first_protocol.to_lowercase())));
        for (_, protocol, port) in &e.ports {
            let low = protocol.to_lowercase();
            let prefix = format!("{up}_PORT_{port}_{}", protocol.to_uppercase());
            out.push((prefix.clone(), format!("{low}://{host}:{port}")));
            out.push((format!("{prefix}_PROTO"), low));
            out.push((format!("{prefix}_PORT"), port.to_string()));
            out.push((format!("{prefix}_ADDR"), ip.clone()));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_have_the_links_form() {
        let e = Entry { ip: "10.96.0.7".into(), ports: vec![("http-a".into(), "TCP".into(), 80)] };
        let v = variables(&[("my-web".to_owned(), e)].into());
        let find = |n: &str| v.iter().find(|(k, _)| k == n).map(|(_, v)| v.as_str());
        assert_eq!(find("MY_WEB_SERVICE_HOST"), Some("10.96.0.7"));
        assert_eq!(find("MY_WEB_SERVICE_PORT_HTTP_A"), Some("80"));
        assert_eq!(find("MY_WEB_PORT"), Some("tcp://10.96.0.7:80"));
        assert_eq!(find("MY_WEB_PORT_80_TCP_ADDR"), Some("10.96.0.7"));
    }
}
