//! The CNI plugin (CNI specification 1.0.0 / 1.1.0): ADD, DEL, CHECK, STATUS, GC and VERSION.
//!
//! The same binary as the agent, started by the container runtime as `strake-cni` (or `strake cni`). It plumbs the
//! link by itself and then asks the agent to attach the datapath; ADD succeeds only after that, so no Pod ever runs
//! with an interface nobody watches.
//!
//! Knows the CNI protocol and this crate's links; nothing of Kubernetes beyond the names in CNI_ARGS.

use std::collections::HashMap;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use ipnetwork::{Ipv4Network, Ipv6Network};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::endpoint::{Endpoint, Records};
use crate::link::{Netlink, in_netns, raw};
use crate::node::set_sysctl;
use crate::{Error, ipam::Pool};

/// What every Pod's default route points at. Link-local (RFC 3927), never seen on a wire.
pub const GATEWAY: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// The same of IPv6, where a Pod has it. Link-local (RFC 4291).
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);
const VERSIONS: [&str; 5] = ["0.3.1", "0.4.0", "1.0.0", "1.1.0", "0.3.0"];

/// The network configuration the agent writes and the runtime passes on standard input.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NetConf {
    pub cni_version: String,
    pub name: String,
    #[serde(rename = "type")]
    pub plugin: String,
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Network,
    /// The node's IPv6 Pod CIDR, in a dual-stack cluster.
    #[serde(rename = "podCIDR6", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr6: Option<Ipv6Network>,
    /// Where leases and endpoint records live.
    pub state_dir: PathBuf,
    /// The agent's local API.
    pub agent_socket: PathBuf,
    pub mtu: u32,
    /// CNI 1.1 GC: attachments that are still wanted.
    #[serde(rename = "cni.dev/valid-attachments", default, skip_serializing_if = "Vec::is_empty")]
    pub valid_attachments: Vec<Attachment>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Attachment {
    #[serde(rename = "containerID")]
    pub container_id: String,
}

/// An error in the plugin's own words with the code the specification gives it.
#[derive(Debug)]
struct Failure {
    code: u32,
    message: String,
    details: String,
}

impl Failure {
    fn new(code: u32, message: &str, details: impl ToString) -> Self {
        Self { code, message: message.into(), details: details.to_string() }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        // 11: try again later (the agent is away); 100 and up: the plugin's own.
        let code = if matches!(error, Error::Agent(_)) { 11 } else { 100 };
        Self::new(code, "strake-cni", error)
    }
}

/// Which plugin this executable is, by the name it was started under.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Plugin {
    /// `strake-cni`: the Pod's link.
    Strake,
    /// `loopback`: containerd brings up a Pod's `lo` through a plugin of this name, before any other.
    Loopback,
}

impl Plugin {
    /// By file name.
    pub fn named(name: &str) -> Option<Self> {
        match name {
            crate::node::PLUGIN => Some(Self::Strake),
            crate::node::LOOPBACK => Some(Self::Loopback),
            _ => None,
        }
    }
}

/// Runs a plugin for the environment and standard input of this process; returns the exit code.
pub fn main(plugin: Plugin) -> i32 {
    let mut input = Vec::new();
    let read = std::io::stdin().read_to_end(&mut input);
    let outcome = match read {
        Ok(_) if plugin == Plugin::Loopback => loopback(&std::env::vars().collect(), &input),
        Ok(_) => run(&std::env::vars().collect(), &input),
        Err(error) => Err(Failure::new(5, "reading the network configuration from standard input", error)),
    };
    match outcome {
        Ok(Value::Null) => 0,
        Ok(result) => {
            println!("{result}");
            0
        }
        Err(f) => {
            let version = serde_json::from_slice::<Value>(&input).ok();
            let version = version.as_ref().and_then(|v| v["cniVersion"].as_str()).unwrap_or("1.0.0");
            println!("{}", json!({"cniVersion": version, "code": f.code, "msg": f.message, "details": f.details}));
            1
        }
    }
}

fn run(env: &HashMap<String, String>, input: &[u8]) -> Result<Value, Failure> {
    let get = |name: &str| {
        env.get(name)
            .map(String::as_str)
            .filter(|v| !v.is_empty())
            .ok_or_else(|| Failure::new(4, "a required environment variable is missing", format!("{name} is not set")))
    };
    let command = get("CNI_COMMAND")?;
    if command == "VERSION" {
        return Ok(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS}));
    }
    let conf: NetConf =
        serde_json::from_slice(input).map_err(|e| Failure::new(6, "the network configuration cannot be decoded", e))?;
    if !VERSIONS.contains(&conf.cni_version.as_str()) {
        return Err(Failure::new(1, "incompatible CNI version", &conf.cni_version));
    }
    match command {
        "ADD" => {
            let args = Args::parse(env.get("CNI_ARGS").map_or("", String::as_str));
            let add = Add {
                container_id: get("CNI_CONTAINERID")?,
                netns: Path::new(get("CNI_NETNS")?),
                ifname: get("CNI_IFNAME")?,
                args,
            };
            Ok(add.run(&conf)?)
        }
        // DEL may come twice, and with an empty CNI_NETNS: everything needed is in the record.
        "DEL" => del(&conf, get("CNI_CONTAINERID")?).map(|()| Value::Null).map_err(Into::into),
        "CHECK" => check(&conf, get("CNI_CONTAINERID")?).map(|()| Value::Null),
        "STATUS" => block_on(async { strake_agent_api::connect(&conf.agent_socket).await.map_err(Error::from) })
            .map(|_| Value::Null)
            .map_err(|e| Failure::new(50, "the agent does not answer, Pods cannot be connected", e)),
        "GC" => gc(&conf).map(|()| Value::Null).map_err(Into::into),
        other => Err(Failure::new(4, "unknown CNI_COMMAND", other)),
    }
}

/// Brings up `lo` in the Pod's namespace. There is nothing to take down: the link goes with its namespace.
fn loopback(env: &HashMap<String, String>, input: &[u8]) -> Result<Value, Failure> {
    let command = env.get("CNI_COMMAND").map_or("", String::as_str);
    match command {
        "VERSION" => return Ok(json!({"cniVersion": "1.1.0", "supportedVersions": VERSIONS})),
        "ADD" | "CHECK" => {}
        _ => return Ok(Value::Null),
    }
    let conf: Value =
        serde_json::from_slice(input).map_err(|e| Failure::new(6, "the network configuration cannot be decoded", e))?;
    let netns = env
        .get("CNI_NETNS")
        .filter(|v| !v.is_empty())
        .ok_or_else(|| Failure::new(4, "a required environment variable is missing", "CNI_NETNS is not set"))?;
    in_netns(Path::new(netns), || async {
        let pod = Netlink::open()?;
        pod.up(pod.index("lo").await?, None).await
    })?;
    if command == "CHECK" {
        return Ok(Value::Null);
    }
    Ok(json!({
        "cniVersion": conf["cniVersion"],
        "interfaces": [{"name": "lo", "mac": "00:00:00:00:00:00", "sandbox": netns}],
        "ips": [{"address": "127.0.0.1/8", "interface": 0}],
    }))
}

/// The Kubernetes names the runtime passes in CNI_ARGS (`K=V;K=V`).
#[derive(Debug, Default, PartialEq)]
struct Args {
    namespace: String,
    pod: String,
    uid: String,
}

impl Args {
    fn parse(text: &str) -> Self {
        let mut args = Self::default();
        for (key, value) in text.split(';').filter_map(|pair| pair.split_once('=')) {
            match key {
                "K8S_POD_NAMESPACE" => args.namespace = value.into(),
                "K8S_POD_NAME" => args.pod = value.into(),
                "K8S_POD_UID" => args.uid = value.into(),
                _ => {}
            }
        }
        args
    }
}

struct Add<'a> {
    container_id: &'a str,
    netns: &'a Path,
    ifname: &'a str,
    args: Args,
}

impl Add<'_> {
    fn run(self, conf: &NetConf) -> Result<Value, Error> {
        let host_name = host_interface(self.container_id);
        let plumbed = lease(conf, self.container_id).and_then(|ips| self.plumb(conf, ips, &host_name));
        if plumbed.is_err() {
            // The runtime calls DEL after a failed ADD, but a plugin cleans up behind itself all the same. The first
            // error is the one to tell.
            let _ = block_on(async { Netlink::open()?.remove(&host_name).await });
            let _ = release(conf, self.container_id);
        }
        let endpoint = plumbed?;
        let mut ips = vec![json!({"address": format!("{}/32", endpoint.ip), "gateway": GATEWAY, "interface": 1})];
        let mut routes = vec![json!({"dst": "0.0.0.0/0", "gw": GATEWAY})];
        if let Some(ip6) = endpoint.ip6 {
            ips.push(json!({"address": format!("{ip6}/128"), "gateway": GATEWAY6, "interface": 1}));
            routes.push(json!({"dst": "::/0", "gw": GATEWAY6}));
        }
        Ok(json!({
            "cniVersion": conf.cni_version,
            "interfaces": [
                {"name": endpoint.interface, "mac": crate::endpoint::mac_text(endpoint.host_mac)},
                {"name": self.ifname, "mac": crate::endpoint::mac_text(endpoint.mac), "sandbox": endpoint.netns},
            ],
            "ips": ips,
            "routes": routes,
        }))
    }

    fn plumb(&self, conf: &NetConf, ips: Ips, host_name: &str) -> Result<Endpoint, Error> {
        let Ips { ip, ip6 } = ips;
        let octets = ip.octets();
        let mac = [0x0a, 0x58, octets[0], octets[1], octets[2], octets[3]];
        let host_mac = [0x0e, 0x58, octets[0], octets[1], octets[2], octets[3]];
        let netns =
            std::fs::File::open(self.netns).map_err(|source| Error::Netns { path: self.netns.into(), source })?;
        let ifindex = block_on(async {
            let node = Netlink::open()?;
            node.remove(host_name).await?; // a half-made pair of an ADD that was killed
            let temporary = format!("tmp{}", &host_name[4..]);
            node.add_veth(host_name, &temporary, conf.mtu).await?;
            let inner = node.index(&temporary).await?;
            node.hand_over(inner, raw(&netns), self.ifname, mac, conf.mtu).await?;
            let outer = node.index(host_name).await?;
            node.up(outer, Some(host_mac)).await?;
            for (ip, length) in ips.with_lengths() {
                node.pin_neighbour(outer, ip, mac).await?;
                node.route_to_link(ip, length, outer).await?;
            }
            Ok(outer)
        })?;
        let ifname = self.ifname.to_owned();
        in_netns(self.netns, || async move {
            let pod = Netlink::open()?;
            pod.up(pod.index("lo").await?, None).await?;
            let eth = pod.index(&ifname).await?;
            if ip6.is_some() {
                // The link's only address and router are the ones it is given, and are so at once.
                for (key, value) in [("disable_ipv6", "0"), ("accept_ra", "0"), ("accept_dad", "0")] {
                    set_sysctl(&format!("net/ipv6/conf/{ifname}/{key}"), value)?;
                }
            }
            pod.up(eth, None).await?;
            for (ip, length) in ips.with_lengths() {
                let (gateway, any): (IpAddr, IpAddr) = match ip {
                    IpAddr::V4(_) => (GATEWAY.into(), Ipv4Addr::UNSPECIFIED.into()),
                    IpAddr::V6(_) => (GATEWAY6.into(), Ipv6Addr::UNSPECIFIED.into()),
                };
                pod.add_address(eth, ip, length).await?;
                pod.pin_neighbour(eth, gateway, host_mac).await?;
                pod.route_to_link(gateway, length, eth).await?;
                pod.route_via(any, 0, gateway, Some(eth)).await?;
            }
            Ok(())
        })?;
        let endpoint = Endpoint {
            ifindex,
            interface: host_name.into(),
            ip,
            ip6,
            mac,
            host_mac,
            netns: self.netns.display().to_string(),
            namespace: self.args.namespace.clone(),
            pod: self.args.pod.clone(),
            pod_uid: self.args.uid.clone(),
            container_id: self.container_id.into(),
        };
        let records = Records::open(conf.state_dir.join("endpoints"))?;
        records.save(&endpoint)?;
        if let Err(error) = tell_agent(conf, &endpoint) {
            records.forget(&endpoint.container_id)?;
            return Err(error);
        }
        Ok(endpoint)
    }
}

/// A Pod's addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Ips {
    ip: Ipv4Addr,
    ip6: Option<Ipv6Addr>,
}

impl Ips {
    /// Each with the length of a prefix that is the address alone.
    fn with_lengths(self) -> impl Iterator<Item = (IpAddr, u8)> {
        std::iter::once((self.ip.into(), 32)).chain(self.ip6.map(|ip6| (ip6.into(), 128)))
    }
}

/// The pools of the node: a directory each, as one has no address of the other.
fn pools(conf: &NetConf) -> Result<(Pool, Option<Pool>), Error> {
    let six = conf.pod_cidr6.map(|cidr| Pool::open(conf.state_dir.join("ipam6"), cidr)).transpose()?;
    Ok((Pool::open(conf.state_dir.join("ipam"), conf.pod_cidr)?, six))
}

/// An address of each of the node's families.
fn lease(conf: &NetConf, owner: &str) -> Result<Ips, Error> {
    let (pool, six) = pools(conf)?;
    let mut ips = Ips { ip: Ipv4Addr::UNSPECIFIED, ip6: None };
    for leased in [Some(pool.lease(owner)?), six.map(|six| six.lease(owner)).transpose()?].into_iter().flatten() {
        match leased {
            IpAddr::V4(ip) => ips.ip = ip,
            IpAddr::V6(ip6) => ips.ip6 = Some(ip6),
        }
    }
    Ok(ips)
}

fn release(conf: &NetConf, owner: &str) -> Result<(), Error> {
    let (pool, six) = pools(conf)?;
    pool.release(owner)?;
    if let Some(six) = six {
        six.release(owner)?;
    }
    Ok(())
}

fn tell_agent(conf: &NetConf, endpoint: &Endpoint) -> Result<(), Error> {
    block_on(async {
        let channel = strake_agent_api::connect(&conf.agent_socket).await?;
        strake_agent_api::v1::endpoints_client::EndpointsClient::new(channel)
            .add(endpoint.to_api())
            .await
            .map_err(|status| Error::Refused(Box::new(status)))?;
        Ok(())
    })
}

fn del(conf: &NetConf, container_id: &str) -> Result<(), Error> {
    let records = Records::open(conf.state_dir.join("endpoints"))?;
    block_on(async {
        Netlink::open()?.remove(&host_interface(container_id)).await?;
        // The links are gone with the veth. An agent that is away drops the rest when it comes back and finds no
        // record, so its absence must not keep a Pod from being deleted.
        if let Ok(channel) = strake_agent_api::connect(&conf.agent_socket).await {
            let request = strake_agent_api::v1::EndpointRef { container_id: container_id.into() };
            strake_agent_api::v1::endpoints_client::EndpointsClient::new(channel)
                .remove(request)
                .await
                .map_err(|status| Error::Refused(Box::new(status)))?;
        }
        Ok(())
    })?;
    records.forget(container_id)?;
    release(conf, container_id)
}

fn check(conf: &NetConf, container_id: &str) -> Result<(), Failure> {
    let records = Records::open(conf.state_dir.join("endpoints"))?;
    let Some(endpoint) = records.load(container_id)? else {
        return Err(Failure::new(3, "the container is unknown", container_id));
    };
    block_on(async { Netlink::open()?.index(&endpoint.interface).await.map(|_| ()) })?;
    Ok(())
}

fn gc(conf: &NetConf) -> Result<(), Error> {
    let (known, _) = Records::open(conf.state_dir.join("endpoints"))?.all()?;
    for endpoint in known {
        if !conf.valid_attachments.iter().any(|a| a.container_id == endpoint.container_id) {
            del(conf, &endpoint.container_id)?;
        }
    }
    Ok(())
}

/// `veth` and eight hex digits of the container id's FNV-1a hash: stable, so that DEL needs no record to find it.
fn host_interface(container_id: &str) -> String {
    let hash = container_id.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    format!("veth{hash:08x}")
}

fn block_on<T>(work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Error::io("starting the plugin's runtime"))?
        .block_on(work)
}

/// All that is read of what the runtime passes, for any bytes, with nothing done.
pub(crate) fn read_any(arguments: &str, input: &[u8]) {
    let args = Args::parse(arguments);
    assert!(host_interface(&args.pod).len() <= 15, "a name that the kernel takes");
    for command in ["VERSION", "UNKNOWN"] {
        let env = HashMap::from([("CNI_COMMAND".to_owned(), command.to_owned())]);
        assert_eq!(run(&env, input).is_ok(), command == "VERSION");
    }
    let env = HashMap::from([("CNI_COMMAND".to_owned(), "ADD".to_owned())]);
    assert!(loopback(&env, input).is_err(), "without a namespace");
    if let Ok(conf) = serde_json::from_slice::<NetConf>(input) {
        let text = serde_json::to_vec(&conf).unwrap_or_default();
        assert!(serde_json::from_slice::<NetConf>(&text).is_ok(), "what was read can be written and read");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> HashMap<String, String> {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn version_needs_no_configuration() {
        let answer = run(&env(&[("CNI_COMMAND", "VERSION")]), b"").unwrap();
        assert!(answer["supportedVersions"].as_array().unwrap().contains(&json!("1.0.0")));
    }

    #[test]
    fn a_missing_variable_and_a_bad_configuration_have_the_specified_codes() {
        assert_eq!(run(&env(&[]), b"{}").unwrap_err().code, 4);
        assert_eq!(run(&env(&[("CNI_COMMAND", "ADD")]), b"{").unwrap_err().code, 6);
        let conf = br#"{"cniVersion":"9.9","name":"n","type":"t","podCIDR":"10.0.0.0/24","stateDir":"/x","agentSocket":"/y","mtu":1500}"#;
        assert_eq!(run(&env(&[("CNI_COMMAND", "ADD")]), conf).unwrap_err().code, 1);
    }

    #[test]
    fn loopback_needs_a_namespace_to_add_and_nothing_to_delete() {
        assert_eq!(loopback(&env(&[("CNI_COMMAND", "DEL")]), b"").unwrap(), Value::Null);
        assert_eq!(loopback(&env(&[("CNI_COMMAND", "ADD")]), b"{}").unwrap_err().code, 4);
    }

    #[test]
    fn the_runtime_passes_the_names_of_the_pod() {
        let args = Args::parse("IgnoreUnknown=1;K8S_POD_NAMESPACE=ns;K8S_POD_NAME=p;K8S_POD_UID=u");
        assert_eq!(args, Args { namespace: "ns".into(), pod: "p".into(), uid: "u".into() });
    }

    fn conf(dir: &Path, six: Option<&str>) -> NetConf {
        NetConf {
            cni_version: "1.0.0".into(),
            name: "strake".into(),
            plugin: "strake-cni".into(),
            pod_cidr: "10.244.1.0/24".parse().unwrap(),
            pod_cidr6: six.map(|cidr| cidr.parse().unwrap()),
            state_dir: dir.into(),
            agent_socket: dir.join("agent.sock"),
            mtu: 1500,
            valid_attachments: Vec::new(),
        }
    }

    #[test]
    fn a_pod_leases_an_address_of_each_family_and_gives_both_back() {
        let dir = tempfile::tempdir().unwrap();
        let dual = conf(dir.path(), Some("fd00:10:244:1::/64"));
        let ips = lease(&dual, "a").unwrap();
        let text: Vec<String> = ips.with_lengths().map(|(ip, length)| format!("{ip}/{length}")).collect();
        assert_eq!(text, ["10.244.1.2/32", "fd00:10:244:1::2/128"]);
        assert_eq!(lease(&dual, "a").unwrap(), ips);
        release(&dual, "a").unwrap();
        assert_ne!(lease(&dual, "b").unwrap().ip6, ips.ip6);
        let single = conf(dir.path(), None);
        assert_eq!(lease(&single, "c").unwrap().ip6, None);
        // A single-stack node's configuration is what it always was.
        assert!(serde_json::to_value(&single).unwrap().get("podCIDR6").is_none());
    }

    #[test]
    fn the_host_interface_fits_the_kernels_name_limit() {
        assert_eq!(host_interface("abc").len(), 12);
        assert_ne!(host_interface("abc"), host_interface("abd"));
    }
}
