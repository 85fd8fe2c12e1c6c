//! What the env variables of Services need, from the snapshot of the cluster that the node's agent keeps anyway.

use std::collections::BTreeMap;
use std::sync::Arc;

use strake_state::{Kind, ObjectName, Service, World};
use tokio::sync::watch;

/// A Service with a cluster IP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Cluster IP.
    pub ip: String,
    /// Name (may be empty), protocol, port.
    pub ports: Vec<(String, String, i32)>,
}

/// The Services of the cluster.
#[derive(Clone)]
pub struct Services(watch::Receiver<Arc<World>>);

fn entry(service: &Service) -> Option<Entry> {
    let ip = service.cluster_ips.first()?.to_string();
    let ports = service.ports.iter().map(|p| (p.name.to_string(), p.protocol.to_string(), p.port.into()));
    Some(Entry { ip, ports: ports.collect() })
}

fn named(service: &Service) -> Option<(String, Entry)> {
    Some((service.name.name.to_string(), entry(service)?))
}

/// Whether all Services were listed once.
fn listed(world: &Arc<World>) -> bool {
    world.sources.iter().any(|source| source.kind == Kind::Service && source.listed)
}

impl Services {
    /// From the snapshots of the cluster.
    pub fn of(worlds: watch::Receiver<Arc<World>>) -> Self {
        Self(worlds)
    }

    /// The Services a Pod in `namespace` is told of by env variables: its namespace's when `links`, and the master's
    /// always. Waits for the first list.
    pub async fn visible(&self, namespace: &str, links: bool) -> BTreeMap<String, Entry> {
        let mut worlds = self.0.clone();
        let world = match worlds.wait_for(listed).await {
            Ok(world) => world.clone(),
            Err(_) => return BTreeMap::new(),
        };
        let mut out = BTreeMap::new();
        if let Some(master) = world.services.get(&ObjectName::new("default", "kubernetes")) {
            out.extend(named(master));
        }
        if links {
            let own = world.services.range(ObjectName::new(namespace, "")..).map(|(_, service)| service);
            out.extend(own.take_while(|service| &*service.name.namespace == namespace).filter_map(|s| named(s)));
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
    use serde_json::json;
    use strake_state::{Cache, Change, Extract};

    use super::*;

    #[tokio::test]
    async fn a_pod_is_told_of_its_namespaces_services_and_the_master_when_all_are_listed() {
        let mut cache = Cache::new("n1");
        let mut put = |namespace: &str, name: &str, cluster_ip: &str| {
            let object = json!({
                "metadata": {"namespace": namespace, "name": name},
                "spec": {"clusterIP": cluster_ip, "ports": [{"name": "http", "port": 80}]},
            });
            let service: k8s_openapi::api::core::v1::Service = serde_json::from_value(object).unwrap();
            cache.apply(Change::Service(ObjectName::new(namespace, name), service.extract().map(Arc::new)));
        };
        put("default", "kubernetes", "10.96.0.1");
        put("a", "web", "10.96.0.7");
        put("a", "headless", "None");
        put("aa", "other", "10.96.0.8");
        let (worlds, receiver) = watch::channel(Arc::new(cache.snapshot()));
        let services = Services::of(receiver);
        let asked = tokio::spawn({
            let services = services.clone();
            async move { services.visible("a", true).await.into_keys().collect::<Vec<_>>() }
        });
        tokio::task::yield_now().await;
        assert!(!asked.is_finished(), "before all are listed");
        cache.apply(Change::InitDone(Kind::Service));
        worlds.send_replace(Arc::new(cache.snapshot()));
        assert_eq!(asked.await.unwrap(), ["kubernetes", "web"]);
        let none = services.visible("a", false).await;
        assert_eq!(none["kubernetes"].ports, [("http".to_owned(), "TCP".to_owned(), 80)]);
        assert_eq!(none.len(), 1);
    }

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
