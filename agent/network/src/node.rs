//! What a node needs before its first Pod: forwarding on, the cluster DNS address on `lo`, the plugin and its
//! configuration where the runtime looks.

use std::fs;
use std::net::Ipv4Addr;
use std::path::Path;

use crate::Error;
use crate::cni::NetConf;
use crate::link::Netlink;

/// Name of the plugin's executable in the CNI bin directory.
pub const PLUGIN: &str = "strake-cni";
/// containerd looks for a plugin of this name beside ours.
pub const LOOPBACK: &str = "loopback";

/// Turns on forwarding, of IPv6 too where Pods have it, and loosens reverse-path filtering, in this network namespace only.
///
/// rp_filter must not be strict: a reply that the datapath translated comes from an address whose route points
/// elsewhere. Spoofing is refused at from_pod instead, where the sender is known.
pub fn enable_forwarding(uplink: &str, ipv6: bool) -> Result<(), Error> {
    for (key, value) in [
        ("net/ipv4/ip_forward", "1"),
        ("net/ipv4/conf/all/rp_filter", "0"),
        ("net/ipv4/conf/default/rp_filter", "0"),
        (&*format!("net/ipv4/conf/{uplink}/rp_filter"), "0"),
    ] {
        set_sysctl(key, value)?;
    }
    if ipv6 {
        // A forwarding host believes no router advertisements, by which it may have its own address and way out, unless
        // told to.
        let accept = format!("net/ipv6/conf/{uplink}/accept_ra");
        if sysctl(&accept).as_deref() == Some("1") {
            set_sysctl(&accept, "2")?;
        }
        set_sysctl("net/ipv6/conf/all/forwarding", "1")?;
    }
    Ok(())
}

fn sysctl(key: &str) -> Option<String> {
    fs::read_to_string(Path::new("/proc/sys").join(key)).ok().map(|value| value.trim().to_owned())
}

/// Sets a kernel parameter of the calling thread's network namespace, unless it is set so already.
pub(crate) fn set_sysctl(key: &str, value: &str) -> Result<(), Error> {
    if sysctl(key).as_deref() == Some(value) {
        return Ok(());
    }
    let path = Path::new("/proc/sys").join(key);
    fs::write(path, value).map_err(Error::io(format!("setting {} to {value}", key.replace('/', "."))))
}

/// Puts the cluster DNS address on `lo`, where the agent's server binds it.
pub async fn add_dns_address(netlink: &Netlink, dns: Ipv4Addr) -> Result<(), Error> {
    let lo = netlink.index("lo").await?;
    netlink.up(lo, None).await?;
    netlink.add_address(lo, dns, 32).await
}

/// Writes the network configuration and links the plugins to this executable, each atomically.
pub fn install_plugin(bin_dir: &Path, conf_dir: &Path, executable: &Path, conf: &NetConf) -> Result<(), Error> {
    for dir in [bin_dir, conf_dir] {
        fs::create_dir_all(dir).map_err(Error::io(format!("making {}", dir.display())))?;
    }
    for plugin in [PLUGIN, LOOPBACK].map(|name| bin_dir.join(name)) {
        if fs::read_link(&plugin).ok().as_deref() == Some(executable) {
            continue;
        }
        let partial = plugin.with_extension("partial");
        let _ = fs::remove_file(&partial); // left by a crash, or not there
        std::os::unix::fs::symlink(executable, &partial)
            .and_then(|()| fs::rename(&partial, &plugin))
            .map_err(Error::io(format!("linking {} to {}", plugin.display(), executable.display())))?;
    }
    let path = conf_dir.join("10-strake.conflist");
    let list = serde_json::json!({
        "cniVersion": conf.cni_version,
        "name": conf.name,
        "plugins": [conf],
    });
    let text = format!("{list:#}\n");
    if fs::read_to_string(&path).ok().as_deref() == Some(&text) {
        return Ok(());
    }
    let partial = conf_dir.join(".10-strake.partial");
    fs::write(&partial, text)
        .and_then(|()| fs::rename(&partial, &path))
        .map_err(Error::io(format!("writing {}", path.display())))
}

/// The hardware MTU of a link.
pub async fn mtu(netlink: &Netlink, link: &str) -> Result<u32, Error> {
    netlink.find(link).await?.map(|(_, mtu)| mtu).ok_or_else(|| Error::NoLink(link.into()))
}
