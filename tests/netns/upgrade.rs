//! One version takes over from another whose maps look different, and back, under load.
//!
//! The other version is the same programs with rows of `CONNTRACK` (both), `SOCK_NAT` and `SERVICES` (both) that are laid out
//! anew (see `build.rs`); its agent is played by the loader, which is all that touches an exchange.

use std::collections::BTreeMap;
use std::net::Ipv6Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use aya::maps::{HashMap, Map, MapData, MapInfo, RingBuf};

use serde_json::json;
use strake_abi::conntrack::{CONNTRACK, CONNTRACK_V6};
use strake_abi::flow::{DropReason, EVENTS, EventKind, FlowEvent, Hook};
use strake_abi::service::{SERVICES, SERVICES_V6};
use strake_abi::sock::{SOCK_NAT, SOCK_NAT_V6};
use strake_datapath::{ApplyOutcome, Attachment, Config, Datapath, Layout, Leaf, Object, UpgradeStep, load};
use strake_tests::lab::{Helper, Lab, NODE_IP, chain, within};

use crate::{VIP, alone, lab};

#[repr(C, align(64))]
struct Aligned<T: ?Sized>(T);

static OTHER: &Aligned<[u8]> = &Aligned(*include_bytes!(concat!(env!("OUT_DIR"), "/other.o")));

const GROWN: [&str; 6] = [CONNTRACK, CONNTRACK_V6, SOCK_NAT, SOCK_NAT_V6, SERVICES, SERVICES_V6];

/// The other version: its ABI is later than any, and it is not known here.
pub fn other() -> Object {
    let mut object = Object { bytes: &OTHER.0, abi_version: 900, ..Object::own() };
    for (name, layout) in &mut object.layouts {
        if GROWN.contains(&name.as_str()) {
            layout.value.iter_mut().for_each(|leaf| leaf.offset += 8);
            layout.value.insert(0, Leaf { path: "later".into(), offset: 0, size: 8 });
        }
    }
    object
}

/// The other version with Services that this one cannot read.
fn foreign() -> Object {
    let mut object = other();
    let services = |(name, _): &&mut (String, Layout)| [SERVICES, SERVICES_V6].contains(&name.as_str());
    object.layouts.iter_mut().filter(services).for_each(|(_, layout)| layout.tag = 7);
    object
}

/// What an agent of the other version does when it starts, up to `until`.
fn start_other(lab: &Lab, config: &Config, object: &Object, until: Option<UpgradeStep>) {
    within(&lab.node, || {
        let mut loaded = load(config, object).unwrap_or_else(|error| panic!("{}", chain(&error)));
        loaded.take_over(until).unwrap_or_else(|error| panic!("{}", chain(&error)));
        if until.is_none() {
            loaded.attach_uplink(Some("up0")).unwrap();
            loaded.attach_sockets(&lab.cgroup).unwrap();
        }
    });
}

/// Everything under the folder of pins.
pub fn pins(lab: &Lab) -> Vec<String> {
    let root = lab.config().bpf_root;
    let (mut folders, mut found) = (vec![PathBuf::new()], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(root.join(&folder)).unwrap() {
            let entry = entry.unwrap();
            let path = folder.join(entry.file_name());
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(path),
                false => found.push(path.display().to_string()),
            }
        }
    }
    found.sort();
    found
}

const NODE_PORT: u16 = 30_080;

/// Connections of every kind, long and short, all the while.
pub struct Load {
    helpers: Vec<(&'static str, Helper)>,
    /// What a machine that emulates another cannot promise: that nothing takes long.
    is_slow: bool,
}

impl Load {
    /// Makes the Pods, the Service and the datapath.
    pub fn start(lab: &mut Lab, config: &Config) -> (Datapath, Self, Vec<Helper>) {
        let (hooked, plain, web) = (lab.pod("hooked"), lab.pod("plain"), lab.pod("web"));
        lab.opt_out(&plain);
        lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
        lab.service("dns", "10.96.0.8", "UDP", 53, json!({}), &[(web.ip, 8080)]);
        let ports = json!([{"protocol": "TCP", "port": 80, "nodePort": NODE_PORT}]);
        let outside = json!({"type": "NodePort", "ports": ports});
        lab.service("out", "10.96.0.9", "TCP", 80, outside, &[(web.ip, 8080)]);
        let started = Instant::now();
        let datapath = lab.start_with(config.clone());
        let is_slow = started.elapsed() > Duration::from_secs(4);
        let mut servers = vec![lab.serve(&web, 8080)];
        // Masqueraded on the way.
        servers.push(lab.outside(&["serve", "192.0.2.100:9000", "world"]));
        servers.iter_mut().skip(1).for_each(|server| assert_eq!(server.line(), "ready"));
        let (tcp, udp, node) = (format!("{VIP}:80"), "10.96.0.8:53", format!("{NODE_IP}:{NODE_PORT}"));
        let mut load = Vec::new();
        for (name, pod) in [("socket hooks", &hooked), ("packets", &plain)] {
            for command in ["tcp-stream", "tcp-until"] {
                load.push((name, lab.in_pod(pod, &[command, &tcp, "2"])));
                load.push((name, lab.in_pod(pod, &[command, "192.0.2.100:9000", "3"])));
            }
            for command in ["udp-stream", "udp-until"] {
                load.push((name, lab.in_pod(pod, &[command, udp, "3"])));
            }
        }
        for command in ["tcp-stream", "tcp-until"] {
            load.push(("outside", lab.outside(&[command, &node, "2"])));
        }
        for (name, helper) in &mut load {
            assert_eq!(helper.line(), "begun", "{name}");
        }
        (datapath, Self { helpers: load, is_slow }, servers)
    }

    /// That not one has failed, and none has waited for a SYN to be sent again, which is after a second.
    pub fn nothing_failed(self) {
        let said: Vec<_> =
            self.helpers.into_iter().map(|(name, helper)| format!("{name}: {}", helper.finish())).collect();
        let good = |said: &&String| {
            let slowest = said.rsplit(' ').nth(1).and_then(|ms| ms.parse::<u64>().ok());
            said.contains(" failed 0") && !said.contains("done 0") && slowest.is_some_and(|ms| ms < 900 || self.is_slow)
        };
        assert!(said.iter().all(|said| good(&said)), "{said:#?}");
    }
}

/// What was refused; but for what Pods without an IPv6 address say to their link by themselves.
pub fn drops(datapath: &Datapath) -> BTreeMap<&'static str, u64> {
    let mut drops = datapath.status().unwrap().drops;
    drops.remove("unsupported_protocol");
    drops
}

/// Listens to what the programs refuse, and says what it was: a number alone does not.
struct Refusals {
    ended: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<String>>>,
}

impl Refusals {
    fn listen(lab: &Lab) -> Self {
        let maps = strake_datapath::maps_folder(&lab.config().bpf_root);
        let map = Map::from_map_data(MapData::from_pin(maps.join(EVENTS)).unwrap()).unwrap();
        let mut events: RingBuf<_> = map.try_into().unwrap();
        let ended = Arc::new(AtomicBool::new(false));
        let end = ended.clone();
        let thread = std::thread::spawn(move || {
            let mut refused = Vec::new();
            while !end.load(Ordering::Relaxed) {
                while let Some(record) = events.next() {
                    let event = FlowEvent::from_bytes(&record).unwrap();
                    if event.kind == EventKind::Drop as u8 {
                        let ip = |bytes: [u8; 16]| Ipv6Addr::from(bytes).to_canonical();
                        let reason = DropReason::from_u8(event.reason).map_or("?", DropReason::as_str);
                        refused.push(format!(
                            "{reason} at {:?} of {}: {} {}:{} -> {}:{} flags {:#x}",
                            Hook::from_u8(event.hook),
                            event.ifindex,
                            event.proto,
                            ip(event.src),
                            event.src_port.get(),
                            ip(event.dst),
                            event.dst_port.get(),
                            event.tcp_flags,
                        ));
                    }
                }
                std::thread::sleep(Duration::from_millis(2));
            }
            refused
        });
        Self { ended, thread: Some(thread) }
    }

    fn end(mut self) -> Vec<String> {
        self.ended.store(true, Ordering::Relaxed);
        self.thread.take().unwrap().join().unwrap()
    }
}

fn up_and_down(config: impl Fn(&Lab) -> Config) {
    let _alone = alone();
    let mut lab = lab();
    let config = config(&lab);
    let (datapath, load, _servers) = Load::start(&mut lab, &config);
    let (dropped, pinned, refusals) = (drops(&datapath), pins(&lab), Refusals::listen(&lab));
    drop(datapath);
    let mut after = dropped.clone();
    for round in 0..3 {
        lab.stop();
        start_other(&lab, &config, &other(), None);
        assert_eq!(pins(&lab), pinned, "nothing more and nothing less, up {round}");
        let datapath = lab.start_with(config.clone());
        assert_eq!(pins(&lab), pinned, "nothing more and nothing less, down {round}");
        let applied = datapath.status().unwrap().last_apply;
        assert!(applied.is_none(), "Services, ids and slices have come along: {applied:?}");
        after = drops(&datapath);
    }
    load.nothing_failed();
    assert_eq!(after, dropped, "{:#?}", refusals.end());
}

#[test]
fn an_upgrade_and_a_downgrade_with_other_layouts_fail_nothing() {
    up_and_down(Lab::config);
}

#[test]
fn so_with_filters_instead_of_links() {
    up_and_down(|lab| Config { force_clsact: true, ..lab.config() });
}

#[test]
fn whoever_starts_next_goes_on_where_an_upgrade_stopped() {
    let _alone = alone();
    let mut lab = lab();
    let config = lab.config();
    let (datapath, load, _servers) = Load::start(&mut lab, &config);
    let (dropped, pinned) = (drops(&datapath), pins(&lab));
    drop(datapath);
    lab.stop();
    // Before anything is put in place.
    within(&lab.node, || drop(load_only(&config)));
    for step in UpgradeStep::ALL {
        start_other(&lab, &config, &other(), Some(step));
        // For a moment nobody is there to go on.
        std::thread::sleep(Duration::from_millis(150));
        let datapath = lab.start_with(config.clone());
        assert_eq!(pins(&lab), pinned, "after it stopped at {step:?}");
        assert!(matches!(lab.apply(), ApplyOutcome::Unchanged), "after it stopped at {step:?}");
        assert_eq!(drops(&datapath), dropped, "after it stopped at {step:?}");
        drop(datapath);
        lab.stop();
    }
    load.nothing_failed();
}

fn load_only(config: &Config) -> strake_datapath::Loaded {
    let loaded = load(config, &other()).unwrap_or_else(|error| panic!("{}", chain(&error)));
    assert!(loaded.is_beside() && !loaded.waits());
    loaded
}

#[test]
fn services_that_cannot_be_read_are_served_as_they_were_until_the_cluster_is_known() {
    let _alone = alone();
    let mut lab = lab();
    let config = lab.config();
    let (datapath, load, _servers) = Load::start(&mut lab, &config);
    let (dropped, pinned) = (drops(&datapath), pins(&lab));
    drop(datapath);
    lab.stop();
    // The other one cannot read ours either: it is told that it can, once.
    start_other(&lab, &config, &other(), None);
    let mut book = other();
    for (mine, theirs) in book.layouts.iter_mut().zip(foreign().layouts) {
        mine.1.tag = theirs.1.tag;
    }
    rewrite(&lab, &book);
    let specs: Vec<_> = lab.pods.iter().map(|pod| pod.spec.clone()).collect();
    let waiting = within(&lab.node, || {
        let datapath = Datapath::start(config.clone()).unwrap_or_else(|error| panic!("{}", chain(&error)));
        specs.into_iter().for_each(|spec| datapath.add_endpoint(spec).unwrap());
        datapath.prune_endpoints().unwrap();
        datapath
    });
    let attached = waiting.status().unwrap().attached;
    assert!(attached.iter().all(|attached| attached.how == Attachment::Waiting), "{attached:?}");
    std::thread::sleep(Duration::from_millis(500));
    // A view of the cluster that is not whole changes nothing.
    let unsynced = Arc::new(strake_state::World::default());
    assert!(matches!(within(&lab.node, || waiting.apply(&unsynced)).unwrap(), ApplyOutcome::NotSynced));
    let world = lab.world();
    within(&lab.node, || waiting.apply(&world)).unwrap_or_else(|error| panic!("{}", chain(&error)));
    let attached = waiting.status().unwrap().attached;
    assert!(attached.iter().all(|attached| attached.how == Attachment::Replaced), "{attached:?}");
    assert_eq!(pins(&lab), pinned);
    assert_eq!(drops(&waiting), dropped);
    load.nothing_failed();
}

/// Writes other layouts into the book, of the maps that are pinned.
fn rewrite(lab: &Lab, object: &Object) {
    let root = lab.config().bpf_root;
    let map = Map::from_map_data(MapData::from_pin(root.join("layouts")).unwrap()).unwrap();
    let mut book: HashMap<_, u32, [u8; 4096]> = map.try_into().unwrap();
    for (name, layout) in &object.layouts {
        let id = MapInfo::from_pin(root.join("maps").join(name)).unwrap().id();
        let notes = if name == strake_abi::config::CONFIG { "hands-over" } else { "" };
        let (text, mut bytes) = (format!("{notes};{layout}"), [0; 4096]);
        bytes[..text.len()].copy_from_slice(text.as_bytes());
        book.insert(id, bytes, 0).unwrap();
    }
}
