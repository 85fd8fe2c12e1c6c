//! A network for packets that are only run through a program: a namespace with an uplink, routes and neighbours, which
//! the calling thread is in as long as it holds it.
//!
//! ```text
//!   up0 (POD_MAC) 192.168.50.11, fd00:192::11     next hop 192.168.50.12, fd00:192::12 (HOST_MAC)
//!                                                  for 10.244.1.0/24, fd00:244:0:1::/64 and the world
//! ```

use std::fs::{self, File};
use std::net::Ipv4Addr;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use nix::sched::{CloneFlags, setns, unshare};

use crate::harness::{HOST_MAC, NODE, OTHER_NODE, POD_MAC};
use crate::six_harness::{NODE6, OTHER_NODE6};

/// See above.
pub struct Uplink {
    back: File,
    pub ifindex: u32,
}

/// Runs `ip` in the thread's namespace.
pub fn ip(arguments: &str) -> Result<()> {
    let output = Command::new("ip").args(arguments.split_whitespace()).output().context("running ip")?;
    ensure!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

/// As people write it.
pub fn mac(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

impl Uplink {
    pub fn enter() -> Result<Self> {
        let back = File::open("/proc/thread-self/ns/net")?;
        unshare(CloneFlags::CLONE_NEWNET).context("making a network namespace")?;
        let mut uplink = Self { back, ifindex: 0 };
        ip(&format!("link add up0 address {} type veth peer name up1", mac(POD_MAC)))?;
        ip("link set lo up")?;
        ip("link set up0 up")?;
        ip("link set up1 up")?;
        fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
        fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
        let (node, hop, next) = (Ipv4Addr::from(NODE), Ipv4Addr::from(OTHER_NODE), mac(HOST_MAC));
        ip(&format!("addr add {node}/24 dev up0"))?;
        ip(&format!("addr add {NODE6}/64 dev up0 nodad"))?;
        ip(&format!("neigh add {hop} lladdr {next} dev up0 nud permanent"))?;
        ip(&format!("neigh add {OTHER_NODE6} lladdr {next} dev up0 nud permanent"))?;
        ip(&format!("route add default via {hop}"))?;
        ip(&format!("route add 10.244.1.0/24 via {hop}"))?;
        ip(&format!("route add default via {OTHER_NODE6} dev up0"))?;
        ip(&format!("route add fd00:244:0:1::/64 via {OTHER_NODE6} dev up0"))?;
        uplink.ifindex = nix::net::if_::if_nametoindex("up0")?;
        Ok(uplink)
    }
}

impl Drop for Uplink {
    fn drop(&mut self) {
        if let Err(error) = setns(&self.back, CloneFlags::CLONE_NEWNET) {
            eprintln!("this thread stays in the namespace of its test: {error}");
        }
    }
}
