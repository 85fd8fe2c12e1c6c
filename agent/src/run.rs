//! Starting the parts of a node in the order a Pod needs them, and ending them together.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use ipnetwork::{IpNetwork, Ipv4Network, Ipv6Network};
use parking_lot::Mutex;
use strake_datapath::{Datapath, LbMode, XdpMode};
use strake_network::cni::{GATEWAY, GATEWAY6, NetConf};
use strake_network::endpoint::Records;
use strake_network::link::Netlink;
use strake_network::{node, routes};
use strake_state::{Scope, World};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::api::{self, Interfaces, Questions};
use crate::{Component, Config, Error, announce, containers, join, proxy};

type Worlds = watch::Receiver<Arc<World>>;

/// Runs the node until `token` is cancelled or a part fails; then every part has ended.
///
/// Containers, their runtime, pinned BPF state and routes stay: a node goes on without its agent.
pub async fn run(config: Config, token: CancellationToken) -> Result<(), Error> {
    let dir = config.node_dir();
    std::fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
    let config = Arc::new(config);

    // What this host lacks is said first: joining may wait for a server, and then fail for another reason.
    let datapath_config = datapath_config(&config);
    let checked = datapath_config.clone();
    let datapath_error = |e: strake_datapath::Error| Error::Datapath(api::chain(&e));
    tokio::task::spawn_blocking(move || Datapath::preflight(&checked))
        .await
        .map_err(|e| Error::Datapath(e.to_string()))?
        .map_err(datapath_error)?;

    // The slow starts side by side: certificates, the runtime, the verifier.
    let datapath = tokio::task::spawn_blocking(move || Datapath::start(datapath_config).map_err(datapath_error));
    let (credentials, runtime) = tokio::try_join!(join::ensure(&config), runtime(&config))?;
    let datapath = datapath.await.map_err(|e| Error::Datapath(e.to_string()))??;

    let netlink = Netlink::open()?;
    node::enable_forwarding(&config.uplink, config.cluster_cidr.v6.is_some())?;
    if config.has(Component::Dns) {
        node::add_dns_address(&netlink, config.cluster_dns).await?;
    }

    let mut parts: JoinSet<Result<(), Error>> = JoinSet::new();
    let client = join::client(&credentials.agent).await?;
    let worlds = strake_state::watch(client.clone(), &config.node_name, Scope::Cluster, token.clone());

    let records = Records::open(dir.join("cni/endpoints"))?;
    adopt(&datapath, &records)?;
    let flows = flows(&datapath, worlds.clone(), &token)?;
    let listener = api::bind(&config.socket())?;
    let board = announce::Board::default();
    // Without the proxy nobody here serves the addresses; without our network somebody else's part may announce them.
    if config.has(Component::Proxy) && config.has(Component::Network) {
        let announcer = datapath.announcer().map_err(datapath_error)?;
        let (uplink, board, everyones) = (config.uplink.clone(), board.clone(), config.announce_everyones);
        let setup = announce::Setup { client, uplink, everyones, announcer, board };
        parts.spawn(announce::run(setup, worlds.clone(), token.clone()));
    }
    let questions = Questions { datapath: datapath.clone(), node_name: config.node_name.clone(), board };
    let interfaces = Interfaces { datapath: datapath.clone(), records };
    parts.spawn(api::serve(listener, questions, Some(interfaces), flows.history(), token.clone()));

    if config.has(Component::Proxy) {
        proxy::start(&mut parts, &datapath, &flows.metrics(), &worlds, config.listen, &token);
    } else {
        // Names, masquerading and the Pods' rows follow the cluster too.
        parts.spawn(proxy::sync(datapath, worlds.clone(), None, token.clone()));
    }
    if config.has(Component::Dns) {
        parts.spawn(dns(config.clone(), worlds.clone(), token.clone()));
    }
    if config.has(Component::Network) {
        parts.spawn(network(config.clone(), netlink, worlds.clone(), token.clone()));
    }
    if let Some(runtime) = runtime {
        let client = join::client(&credentials.kubelet).await?;
        parts.spawn(join::keep_serving(config.clone(), client.clone(), credentials.serving.clone(), token.clone()));
        let kubelet = kubelet_config(&config, &credentials, runtime.socket);
        if let Some(own) = runtime.own {
            let token = token.clone();
            parts.spawn(async move {
                own.keep(token).await;
                Ok(())
            });
        }
        let token = token.clone();
        parts.spawn(async move {
            strake_kubelet::run(kubelet, client, worlds, token).await.map_err(|e| Error::Kubelet(e.to_string()))
        });
    }

    until_all_end(parts, &token).await
}

async fn runtime(config: &Config) -> Result<Option<containers::Runtime>, Error> {
    if config.has(Component::Kubelet) { containers::ensure(config).await.map(Some) } else { Ok(None) }
}

fn datapath_config(config: &Config) -> strake_datapath::Config {
    let mut datapath = strake_datapath::Config::new(&config.node_name, &config.cgroup_root, &config.bpf_root);
    datapath.uplink = Some(config.uplink.clone());
    datapath.node_ips = [Some(config.node_ip.into()), config.node_ip6.map(IpAddr::V6)].into_iter().flatten().collect();
    datapath.cluster_cidr = config.cluster_cidr;
    datapath.service_cidr = config.service_cidr;
    datapath.cluster_dns = config.cluster_dns;
    datapath.cluster_domain.clone_from(&config.cluster_domain);
    datapath.pod_gateway = GATEWAY;
    datapath.pod_gateway6 = GATEWAY6;
    datapath.sandboxes.clone_from(&config.sandboxes);
    datapath.services = config.has(Component::Proxy);
    datapath.masquerade = config.has(Component::Network);
    datapath.host_ports = config.has(Component::Network);
    datapath.dns = config.has(Component::Dns);
    datapath.lb_algorithm = config.lb_algorithm;
    datapath.lb_mode = if datapath.services { config.lb_mode } else { LbMode::Snat };
    datapath.sizes = config.maps.sizes;
    datapath.max_rows = config.maps.max_rows;
    datapath.xdp = if datapath.services { config.xdp } else { XdpMode::Off };
    datapath
}

/// Takes over the interfaces of Pods that were plumbed before this agent started.
fn adopt(datapath: &Datapath, records: &Records) -> Result<(), Error> {
    let (endpoints, damaged) = records.all()?;
    for error in damaged {
        tracing::warn!(%error, "an endpoint record cannot be read; its Pod is not served until it is recreated");
    }
    for endpoint in &endpoints {
        // A Pod that went while no agent ran has a record and no interface.
        if !Path::new("/proc/sys/net/ipv4/conf").join(&endpoint.interface).exists() {
            tracing::info!(pod = endpoint.pod, interface = endpoint.interface, "the interface is gone; forgetting it");
            records.forget(&endpoint.container_id)?;
            continue;
        }
        if let Err(error) = datapath.add_endpoint(api::spec(endpoint)) {
            tracing::warn!(%error, pod = endpoint.pod, interface = endpoint.interface, "cannot take over this endpoint");
        }
    }
    let pruned = datapath.prune_endpoints().map_err(|e| Error::Datapath(e.to_string()))?;
    tracing::info!(endpoints = endpoints.len(), pruned, "endpoints taken over");
    Ok(())
}

/// Starts reading what the programs report.
pub fn flows(datapath: &Datapath, worlds: Worlds, token: &CancellationToken) -> Result<strake_flow::FlowLog, Error> {
    let mut config = strake_flow::Config::new(datapath.maps_folder());
    config.on_flows = Some(room_checks(datapath.clone()));
    strake_flow::FlowLog::start(&config, worlds, token.clone())
        .map_err(|e| Error::Part(format!("reading flows: {}", api::chain(&e))))
}

/// New flows are what fills the maps of connections: so they are what has those looked at, now and then.
fn room_checks(datapath: Datapath) -> Arc<dyn Fn() + Send + Sync> {
    const AGAIN: Duration = Duration::from_secs(10);
    let last = Mutex::new(None::<Instant>);
    Arc::new(move || {
        let now = Instant::now();
        let mut last = last.lock();
        if last.is_some_and(|last| now.duration_since(last) < AGAIN) {
            return;
        }
        *last = Some(now);
        let datapath = datapath.clone();
        tokio::task::spawn_blocking(move || {
            if let Err(error) = datapath.check_room() {
                tracing::warn!(error = api::chain(&error), "looking at how full the maps of connections are");
            }
        });
    })
}

/// Waits for every part; the first that ends, well or not, ends the others.
pub async fn until_all_end(mut parts: JoinSet<Result<(), Error>>, token: &CancellationToken) -> Result<(), Error> {
    let mut outcome = Ok(());
    while let Some(ended) = parts.join_next().await {
        let ended = ended.unwrap_or_else(|e| Err(Error::Part(format!("a part of the agent panicked: {e}"))));
        if outcome.is_ok() {
            outcome = ended;
        }
        token.cancel();
    }
    outcome
}

/// The userspace half of DNS, on the cluster DNS address that `lo` has.
async fn dns(config: Arc<Config>, worlds: Worlds, token: CancellationToken) -> Result<(), Error> {
    let listen = vec![SocketAddr::new(config.cluster_dns.into(), 53)];
    let mut dns = strake_dns::Config::new(listen, config.cluster_domain.as_str());
    dns.upstream = strake_dns::UpstreamConfig::ResolvConf(config.resolv_conf.clone());
    strake_dns::serve(dns, worlds, token).await.map_err(|e| Error::Dns(e.to_string()))
}

fn kubelet_config(config: &Config, credentials: &join::Credentials, runtime: PathBuf) -> strake_kubelet::Config {
    let dir = config.node_dir();
    let mut kubelet = strake_kubelet::Config::under(&dir, &config.node_name, config.node_ip.into(), runtime);
    kubelet.node_ips.extend(config.node_ip6.map(IpAddr::from));
    kubelet.cgroup_parent.clone_from(&config.cgroup_parent);
    kubelet.listen = SocketAddr::new(config.node_ip.into(), 10250);
    kubelet.serving_cert = credentials.serving.with_extension("crt");
    kubelet.serving_key = credentials.serving.with_extension("key");
    kubelet.client_ca.clone_from(&credentials.ca);
    kubelet.cluster_dns = vec![config.cluster_dns.into()];
    kubelet.cluster_domain.clone_from(&config.cluster_domain);
    kubelet.resolv_conf.clone_from(&config.resolv_conf);
    kubelet.sandbox_image = strake_images::PAUSE_IMAGE.into();
    kubelet
}

/// Follows the cluster: the plugin's configuration once this node has a Pod CIDR, and routes to the others'.
async fn network(
    config: Arc<Config>,
    netlink: Netlink,
    mut worlds: Worlds,
    token: CancellationToken,
) -> Result<(), Error> {
    let dir = config.node_dir();
    let mtu = node::mtu(&netlink, &config.uplink).await?;
    let mut installed = None;
    let mut wanted = BTreeMap::new();
    loop {
        let world = worlds.borrow_and_update().clone();
        let own = world.this_node().map(|node| pod_cidrs(&node.pod_cidrs));
        if let Some((Some(cidr), six)) = own
            && installed != own
        {
            let conf = NetConf {
                cni_version: "1.0.0".into(),
                name: "strake".into(),
                plugin: node::PLUGIN.into(),
                pod_cidr: cidr,
                pod_cidr6: six,
                state_dir: dir.join("cni"),
                agent_socket: config.socket(),
                mtu,
                valid_attachments: Vec::new(),
            };
            node::install_plugin(&dir.join("cni/bin"), &dir.join("cni/net.d"), &config.executable, &conf)?;
            tracing::info!(%cidr, six = six.map(tracing::field::display), "the Pod network is ready");
            installed = own;
        }
        // Before the first full view of the cluster, a missing node is one that was not heard of yet.
        let next = other_nodes(&world);
        if world.synced && next != wanted {
            match routes::sync(&netlink, &next).await {
                Ok(changed) => {
                    tracing::info!(changed, ranges = next.len(), "routes to other nodes' Pods");
                    wanted = next;
                }
                Err(error) => {
                    tracing::warn!(%error, "a route to another node is not in place; the next change tries again")
                }
            }
        }
        tokio::select! {
            () = token.cancelled() => return Ok(()),
            changed = worlds.changed() => if changed.is_err() { return Ok(()) },
        }
    }
}

/// The node's Pod CIDR of each family.
fn pod_cidrs(cidrs: &[IpNetwork]) -> (Option<Ipv4Network>, Option<Ipv6Network>) {
    let (mut four, mut six) = (None, None);
    for cidr in cidrs {
        match cidr {
            IpNetwork::V4(v4) => four = four.or(Some(*v4)),
            IpNetwork::V6(v6) => six = six.or(Some(*v6)),
        }
    }
    (four, six)
}

/// Pod CIDR -> address of the node in the same family, for every node but this.
fn other_nodes(world: &World) -> BTreeMap<IpNetwork, IpAddr> {
    let mut routes = BTreeMap::new();
    for node in world.nodes.values().filter(|node| node.name != world.node_name) {
        let (four, six) = pod_cidrs(&node.pod_cidrs);
        for cidr in [four.map(IpNetwork::from), six.map(IpNetwork::from)].into_iter().flatten() {
            let ip = node.internal_ips.iter().find(|ip| ip.is_ipv4() == cidr.is_ipv4());
            routes.extend(ip.map(|ip| (cidr, *ip)));
        }
    }
    routes
}
