//! Rule sets in the shape that kube-proxy 1.36 writes for its nftables and iptables modes: the same tables, chains,
//! hooks and lookups for the same Services, made here.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};

use std::net::Ipv4Addr;

/// A Service with its endpoints, all TCP.
pub struct PeerService {
    pub name: String,
    pub vip: Ipv4Addr,
    pub port: u16,
    pub node_port: Option<u16>,
    pub backends: Vec<(Ipv4Addr, u16)>,
}

const POD_CIDR: &str = "10.244.0.0/16";
const SERVICE_CIDR: &str = "10.96.0.0/16";

/// The input of `nft -f`.
pub fn nftables(services: &[PeerService], node_ip: Ipv4Addr) -> String {
    let mut out = String::from("table ip kube-proxy {\n");
    let backends = || services.iter().flat_map(|service| &service.backends);
    let hairpin: Vec<String> = backends().map(|(ip, port)| format!("{ip} . {ip} . tcp . {port}")).collect();
    let vips: Vec<String> = services.iter().map(|service| service.vip.to_string()).collect();
    let verdicts: Vec<String> =
        services.iter().map(|s| format!("{} . tcp . {} : goto service-{}", s.vip, s.port, s.name)).collect();
    let _ = write!(
        out,
        "set hairpin-connections {{ type ipv4_addr . ipv4_addr . inet_proto . inet_service; elements = {{ {} }} }}
set cluster-ips {{ type ipv4_addr; elements = {{ {} }} }}
set nodeport-ips {{ type ipv4_addr; elements = {{ {node_ip} }} }}
map no-endpoint-services {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
map no-endpoint-nodeports {{ type inet_proto . inet_service : verdict; }}
map firewall-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; }}
",
        hairpin.join(", "),
        vips.join(", "),
    );
    for service in services {
        let list = service.backends.iter().enumerate().map(|(index, (ip, port))| format!("{index} : {ip} . {port}"));
        let list: Vec<String> = list.collect();
        let count = service.backends.len();
        let _ = writeln!(
            out,
            "chain service-{} {{\n  meta l4proto tcp dnat ip to numgen random mod {count} map {{ {} }}\n}}",
            service.name,
            list.join(", ")
        );
        let _ = writeln!(
            out,
            "chain external-{0} {{\n  meta mark set meta mark | 0x4000\n  goto service-{0}\n}}",
            service.name
        );
    }
    let ports = services.iter().filter_map(|s| Some(format!("tcp . {} : goto external-{}", s.node_port?, s.name)));
    let ports: Vec<String> = ports.collect();
    let ports = if ports.is_empty() { String::new() } else { format!("elements = {{ {} }}", ports.join(", ")) };
    let _ = write!(
        out,
        "map service-nodeports {{ type inet_proto . inet_service : verdict; {ports} }}
map service-ips {{ type ipv4_addr . inet_proto . inet_service : verdict; elements = {{ {} }} }}
chain nodeport-endpoints-check {{ ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports; }}
chain service-endpoints-check {{ ip daddr . meta l4proto . th dport vmap @no-endpoint-services; }}
chain firewall-check {{ ip daddr . meta l4proto . th dport vmap @firewall-ips; }}
chain cluster-ips-check {{
  ip daddr @cluster-ips reject
  ip daddr {SERVICE_CIDR} drop
}}
chain services {{
  ip daddr @cluster-ips ip saddr != {POD_CIDR} meta mark set meta mark | 0x4000
  ip daddr . meta l4proto . th dport vmap @service-ips
  ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports
}}
chain masquerading {{
  meta mark & 0x4000 != 0 meta mark set meta mark ^ 0x4000 masquerade fully-random
  ct status dnat ip saddr . ip daddr . meta l4proto . th dport @hairpin-connections masquerade fully-random
}}
chain filter-prerouting-pre-dnat {{ type filter hook prerouting priority -110; ct state new jump firewall-check; }}
chain filter-output-pre-dnat {{ type filter hook output priority -110; ct state new jump firewall-check; }}
chain filter-input {{
  type filter hook input priority 0
  ct state new jump nodeport-endpoints-check
  ct state new jump service-endpoints-check
}}
chain filter-forward {{
  type filter hook forward priority 0
  ct state new jump service-endpoints-check
  ct state new jump cluster-ips-check
}}
chain filter-output {{
  type filter hook output priority 0
  ct state new jump service-endpoints-check
  ct state new jump cluster-ips-check
}}
chain nat-prerouting {{ type nat hook prerouting priority -100; jump services; }}
chain nat-output {{ type nat hook output priority -100; jump services; }}
chain nat-postrouting {{ type nat hook postrouting priority 100; jump masquerading; }}
}}
",
        verdicts.join(", ")
    );
    out
}

/// The input of `iptables-restore`. (The accounting match `nfacct` is left out: it counts, and decides nothing.)
pub fn iptables(services: &[PeerService]) -> String {
    let mut filter = String::from(
        "*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:KUBE-EXTERNAL-SERVICES - [0:0]
:KUBE-FIREWALL - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-PROXY-FIREWALL - [0:0]
:KUBE-SERVICES - [0:0]
-A INPUT -j KUBE-FIREWALL
-A INPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A INPUT -j KUBE-NODEPORTS
-A INPUT -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A FORWARD -j KUBE-FORWARD
-A FORWARD -m conntrack --ctstate NEW -j KUBE-SERVICES
-A FORWARD -m conntrack --ctstate NEW -j KUBE-EXTERNAL-SERVICES
-A OUTPUT -j KUBE-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-PROXY-FIREWALL
-A OUTPUT -m conntrack --ctstate NEW -j KUBE-SERVICES
-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A KUBE-FORWARD -m mark --mark 0x4000/0x4000 -j ACCEPT
-A KUBE-FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT
COMMIT
",
    );
    let mut chains = String::new();
    let mut rules = String::new();
    let mut endpoints = 0;
    for (number, service) in services.iter().enumerate() {
        let (chain, vip, port) = (format!("KUBE-SVC-{number:016}"), service.vip, service.port);
        let comment = format!("-m comment --comment \"d/{}:http cluster IP\"", service.name);
        let _ = writeln!(chains, ":{chain} - [0:0]");
        let _ = writeln!(rules, "-A KUBE-SERVICES -d {vip}/32 -p tcp {comment} -m tcp --dport {port} -j {chain}");
        let _ = writeln!(
            rules,
            "-A {chain} ! -s {POD_CIDR} -d {vip}/32 -p tcp {comment} -m tcp --dport {port} -j KUBE-MARK-MASQ"
        );
        if let Some(port) = service.node_port {
            let external = format!("KUBE-EXT-{number:016}");
            let _ = writeln!(chains, ":{external} - [0:0]");
            let _ = writeln!(rules, "-A KUBE-NODEPORTS -p tcp {comment} -m tcp --dport {port} -j {external}");
            let _ = writeln!(rules, "-A {external} {comment} -j KUBE-MARK-MASQ");
            let _ = writeln!(rules, "-A {external} -j {chain}");
        }
        let count = service.backends.len();
        for (index, (ip, to)) in service.backends.iter().enumerate() {
            let endpoint = format!("KUBE-SEP-{endpoints:016}");
            endpoints += 1;
            let dice = match count - index {
                1 => String::new(),
                left => format!("-m statistic --mode random --probability {:.11} ", 1.0 / left as f64),
            };
            let comment = format!("-m comment --comment \"d/{}:http\"", service.name);
            let _ = writeln!(chains, ":{endpoint} - [0:0]");
            let _ = writeln!(rules, "-A {chain} {comment} {dice}-j {endpoint}");
            let _ = writeln!(rules, "-A {endpoint} -s {ip}/32 {comment} -j KUBE-MARK-MASQ");
            let _ = writeln!(rules, "-A {endpoint} -p tcp {comment} -m tcp -j DNAT --to-destination {ip}:{to}");
        }
    }
    let _ = write!(
        filter,
        "*nat
:PREROUTING ACCEPT [0:0]
:INPUT ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-NODEPORTS - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-SERVICES - [0:0]
{chains}-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
{rules}-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS
COMMIT
"
    );
    filter
}

/// Feeds rules to a program inside a network namespace; None when the program is not installed.
pub fn load(netns: &str, program: &[&str], rules: &str) -> Option<()> {
    let known = Command::new(program[0]).arg("--version").stdout(Stdio::null()).stderr(Stdio::null()).status();
    known.ok()?;
    let mut child = Command::new("nsenter")
        .arg(format!("--net=/run/netns/{netns}"))
        .args(program)
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(rules.as_bytes()).unwrap();
    let status = child.wait().unwrap();
    assert!(status.success(), "{program:?} refuses the rules");
    Some(())
}
