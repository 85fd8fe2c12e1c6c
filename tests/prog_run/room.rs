//! A node of its own: network namespaces with real veths, the programs attached to them, and nothing of the machine's.
//!
//! ```text
//!   pod A 10.244.0.5      pod B 10.244.0.9
//!      | eth0                | eth0
//!      | va                  | vb          from_pod / to_pod
//!   ===== node ============================
//!      | uplink 192.168.50.11                  from_net / to_net
//!      | eth0
//!   outside 192.168.50.12, 203.0.113.9
//! ```
//!
//! Namespaces live as long as the `sleep` that holds each; the links in them go with them.

use std::fs::{self, File};
use std::io::Write as _;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use anyhow::{Context, Result, bail, ensure};
use aya::programs::{CgroupAttachMode, CgroupSock, CgroupSockAddr, TcAttachType};
use nix::sched::{CloneFlags, setns};
use strake_abi::Addr4;
use strake_abi::endpoint::{
    ENDPOINT_NO_SOCKET, ENDPOINTS, ENDPOINTS_BY_IP, Endpoint, NODE_LOCAL, NODES, PODS_BY_NETNS, PodNetns,
};

use crate::harness::{GATEWAY, Kernel, LOCAL, NODE, OTHER_NODE, OUTSIDE, POD, classifier};

/// A namespace held by a process.
pub struct Space(Child);

impl Space {
    fn new() -> Result<Self> {
        let child = Command::new("unshare").args(["--net", "sleep", "600"]).spawn().context("starting unshare")?;
        let space = Self(child);
        // The process is in its own namespace once it is no longer in ours.
        let ours = fs::read_link("/proc/thread-self/ns/net")?;
        while fs::read_link(space.path())? == ours {
            thread::yield_now();
        }
        Ok(space)
    }

    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/ns/net", self.0.id()).into()
    }

    /// Runs `f` on a thread of this namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path())?;
        thread::scope(|scope| {
            let handle = scope.spawn(move || {
                setns(&file, CloneFlags::CLONE_NEWNET).context("entering a namespace")?;
                f()
            });
            handle.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
        })
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A cgroup2 directory of this test's own.
struct Cgroup(PathBuf);

impl Cgroup {
    fn new() -> Result<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts")?;
        let root = mounts
            .lines()
            .filter_map(|l| {
                let mut fields = l.split(' ');
                let (_, path, kind) = (fields.next()?, fields.next()?, fields.next()?);
                (kind == "cgroup2").then_some(path)
            })
            .next()
            .context("no cgroup2 is mounted")?;
        let path = Path::new(root).join(format!("strake-prog-run-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        let _ = fs::remove_dir(&self.0);
    }
}

pub struct Room {
    pub kernel: Kernel,
    pub node: Space,
    pub pod: Space,
    pub other: Space,
    pub outside: Space,
    cgroup: Cgroup,
}

pub fn ip(args: &str) -> Result<()> {
    let output = Command::new("ip").args(args.split(' ')).output().context("running ip")?;
    ensure!(output.status.success(), "ip {args}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(())
}

fn mac(interface: &str) -> Result<[u8; 6]> {
    let output = Command::new("ip").args(["-o", "link", "show", interface]).output()?;
    let text = String::from_utf8(output.stdout)?;
    let word = text.split("link/ether ").nth(1).and_then(|t| t.split(' ').next()).context("no link/ether")?;
    let mut mac = [0; 6];
    for (byte, part) in mac.iter_mut().zip(word.split(':')) {
        *byte = u8::from_str_radix(part, 16)?;
    }
    Ok(mac)
}

#[expect(unsafe_code, reason = "nix has no SO_NETNS_COOKIE")]
fn netns_cookie() -> Result<u64> {
    let socket = std::net::UdpSocket::bind("0.0.0.0:0")?;
    let mut cookie = 0u64;
    let mut len = 8 as libc::socklen_t;
    // SO_NETNS_COOKIE is 71 (5.14).
    // SAFETY: the option is a u64, and `cookie` is one.
    let ret =
        unsafe { libc::getsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, 71, (&raw mut cookie).cast(), &raw mut len) };
    let error = std::io::Error::last_os_error();
    // As the agent does on such a kernel: namespaces are not told apart.
    ensure!(ret == 0 || error.raw_os_error() == Some(libc::ENOPROTOOPT), "SO_NETNS_COOKIE: {error}");
    Ok(cookie)
}

impl Room {
    /// Pod A (with socket hooks or without), Pod B, the world outside, everything attached.
    pub fn new(opted_out: bool) -> Result<Self> {
        Self::with(Kernel::new()?, opted_out)
    }

    /// The same with programs that are loaded already.
    pub fn with(mut kernel: Kernel, opted_out: bool) -> Result<Self> {
        let (node, pod, other, outside) = (Space::new()?, Space::new()?, Space::new()?, Space::new()?);
        let pids = [pod.0.id(), other.0.id(), outside.0.id()];
        node.run(|| {
            ip("link set lo up")?;
            fs::write("/proc/sys/net/ipv4/ip_forward", "1")?;
            for (name, pid) in [("va", pids[0]), ("vb", pids[1]), ("uplink", pids[2])] {
                ip(&format!("link add {name} type veth peer name eth0 netns {pid}"))?;
                ip(&format!("link set {name} up"))?;
            }
            ip(&format!("addr add {}/24 dev uplink", Ipv4Addr::from(NODE)))?;
            ip(&format!("route add default via {}", Ipv4Addr::from(OTHER_NODE)))?;
            ip(&format!("route add {} dev va", Ipv4Addr::from(POD)))?;
            ip(&format!("route add {} dev vb", Ipv4Addr::from(LOCAL)))
        })?;
        for (space, addr, veth, flags) in
            [(&pod, POD, "va", if opted_out { ENDPOINT_NO_SOCKET } else { 0 }), (&other, LOCAL, "vb", 0)]
        {
            let (host_mac, ifindex) = node.run(|| Ok((mac(veth)?, nix::net::if_::if_nametoindex(veth)?)))?;
            let (pod_mac, cookie) = space.run(|| {
                ip("link set lo up")?;
                ip("link set eth0 up")?;
                ip(&format!("addr add {}/32 dev eth0", Ipv4Addr::from(addr)))?;
                ip(&format!("route add {} dev eth0 scope link", Ipv4Addr::from(GATEWAY)))?;
                ip(&format!("route add default via {}", Ipv4Addr::from(GATEWAY)))?;
                let [a, b, c, d, e, f] = host_mac;
                ip(&format!(
                    "neigh add {} lladdr {a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x} dev eth0 nud permanent",
                    Ipv4Addr::from(GATEWAY)
                ))?;
                Ok((mac("eth0")?, netns_cookie()?))
            })?;
            let endpoint = Endpoint {
                ip: Addr4::new(addr),
                mac: pod_mac,
                host_mac,
                flags,
                id: ifindex,
                netns_cookie: cookie,
                ..Endpoint::default()
            };
            kernel.insert(ENDPOINTS, ifindex, endpoint)?;
            kernel.insert(ENDPOINTS_BY_IP, Addr4::new(addr), ifindex)?;
            let row = PodNetns { ip: Addr4::new(addr), id: ifindex, flags: u32::from(flags) };
            if cookie != 0 {
                kernel.insert(PODS_BY_NETNS, cookie, row)?;
            }
        }
        kernel.insert(NODES, Addr4::new(NODE), NODE_LOCAL)?;
        outside.run(|| {
            ip("link set lo up")?;
            ip("link set eth0 up")?;
            ip(&format!("addr add {}/24 dev eth0", Ipv4Addr::from(OTHER_NODE)))?;
            ip(&format!("addr add {}/32 dev lo", Ipv4Addr::from(OUTSIDE)))
        })?;
        let cookie = node.run(netns_cookie)?;
        let uplink = node.run(|| Ok(nix::net::if_::if_nametoindex("uplink")?))?;
        kernel.configure(|c| {
            c.host_netns_cookie = cookie;
            c.uplink_ifindex = uplink;
        })?;
        let tcx = strake_datapath::probe_kernel()?.tcx;
        node.run(|| {
            for interface in ["va", "vb", "uplink"].iter().filter(|_| !tcx) {
                aya::programs::tc::qdisc_add_clsact(interface)?;
            }
            for veth in ["va", "vb"] {
                classifier(&mut kernel.bpf, "from_pod")?.attach(veth, TcAttachType::Ingress)?;
                classifier(&mut kernel.bpf, "to_pod")?.attach(veth, TcAttachType::Egress)?;
            }
            classifier(&mut kernel.bpf, "from_net")?.attach("uplink", TcAttachType::Ingress)?;
            classifier(&mut kernel.bpf, "to_net")?.attach("uplink", TcAttachType::Egress)?;
            Ok(())
        })?;
        let cgroup = Cgroup::new()?;
        let directory = File::open(&cgroup.0)?;
        for name in strake_abi::program::SOCK_ADDR {
            let program: &mut CgroupSockAddr = kernel.bpf.program_mut(name).context(name)?.try_into()?;
            program.load()?;
            program.attach(&directory, CgroupAttachMode::Single)?;
        }
        let release = strake_abi::program::SOCK_RELEASE;
        let program: &mut CgroupSock = kernel.bpf.program_mut(release).context(release)?.try_into()?;
        program.load()?;
        program.attach(&directory, CgroupAttachMode::Single)?;
        Ok(Self { kernel, node, pod, other, outside, cgroup })
    }

    /// Gives Pod A an IPv6 address, with the host side of its veth as the gateway.
    pub fn with_ipv6(&mut self, address: Ipv6Addr) -> Result<()> {
        let ifindex = self.node.run(|| {
            fs::write("/proc/sys/net/ipv6/conf/all/forwarding", "1")?;
            ip("addr add fe80::1/64 dev va nodad")?;
            ip(&format!("route add {address}/128 dev va"))?;
            Ok(nix::net::if_::if_nametoindex("va")?)
        })?;
        self.pod.run(|| {
            ip(&format!("addr add {address}/128 dev eth0 nodad"))?;
            ip("route add default via fe80::1 dev eth0")
        })?;
        let rows = self.kernel.bpf.map(ENDPOINTS).context(ENDPOINTS)?;
        let row = aya::maps::HashMap::<_, u32, Endpoint>::try_from(rows)?.get(&ifindex, 0)?;
        self.kernel.insert(ENDPOINTS, ifindex, Endpoint { ip6: address.into(), ..row })
    }

    /// Runs the test `name` of this binary (one marked as a part) as a process of `space`, under the socket hooks, and
    /// returns what it printed after `SAYS `.
    #[expect(unsafe_code, reason = "a child enters its cgroup and namespace before exec")]
    pub fn hooked(&self, space: &Space, name: &str, argument: &str) -> Result<String> {
        let (cgroup, netns) = (self.cgroup.0.join("cgroup.procs"), File::open(space.path())?);
        let mut command = Command::new(std::env::current_exe()?);
        command
            .args(["--exact", name, "--ignored", "--nocapture"])
            .env("STRAKE_PART", argument)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut procs = File::options().write(true).open(cgroup)?;
        // SAFETY: only write(2) and setns(2) between fork and exec.
        unsafe {
            command.pre_exec(move || {
                procs.write_all(b"0")?;
                setns(&netns, CloneFlags::CLONE_NEWNET).map_err(std::io::Error::from)
            });
        }
        let output = command.output()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match text.lines().find_map(|l| l.split("SAYS ").nth(1)) {
            Some(said) if output.status.success() => Ok(said.to_owned()),
            _ => bail!("{name} {argument}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr)),
        }
    }
}
