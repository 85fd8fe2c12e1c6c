//! Maps that the cluster outgrows are made larger while connections use them.

use std::net::Ipv4Addr;

use serde_json::json;
use strake_abi::dns::DNS_NAMES;
use strake_abi::service::{BACKENDS, MEMBERS, SERVICES};
use strake_datapath::{ApplyOutcome, Config, Datapath, MapSizes};
use strake_tests::lab::{Lab, chain, within};

use crate::upgrade::{Load, drops, pins};
use crate::{alone, lab};

fn small(lab: &Lab) -> Config {
    let sizes = MapSizes { services: 32, backends: 64, members: 32, dns_names: 32, ..MapSizes::default() };
    Config { sizes, ..lab.config() }
}

fn capacity(datapath: &Datapath, map: &str) -> u32 {
    datapath.status().unwrap().maps.iter().find(|found| found.map == map).unwrap().capacity
}

fn services(lab: &mut Lab, numbers: std::ops::Range<u16>, backend: Ipv4Addr) {
    for number in numbers {
        let vip = Ipv4Addr::from(u32::from(Ipv4Addr::new(10, 96, 1, 0)) + u32::from(number)).to_string();
        let others = (0..3).map(|n| (Ipv4Addr::new(10, 244, 9, n + 1), 8080));
        let backends: Vec<_> = others.chain([(backend, 8080)]).collect();
        lab.service(&format!("s{number}"), &vip, "UDP", 80, json!({}), &backends);
    }
}

#[test]
fn a_cluster_that_outgrows_its_maps_gets_larger_ones_and_no_connection_notices() {
    let _alone = alone();
    let mut lab = lab();
    let config = small(&lab);
    let (datapath, load, _servers) = Load::start(&mut lab, &config);
    let (dropped, pinned) = (drops(&datapath), pins(&lab));
    let web = lab.pods.iter().find(|pod| pod.name == "web").unwrap().ip;
    let attached = datapath.status().unwrap().attached.len();
    for (upto, services_room) in [(20, 64), (100, 512), (400, 1024)] {
        services(&mut lab, 0..upto, web);
        assert!(matches!(lab.apply(), ApplyOutcome::Applied(_)));
        assert!(matches!(lab.apply(), ApplyOutcome::Unchanged));
        assert_eq!(capacity(&datapath, SERVICES), services_room);
    }
    // What counts alone is what there is: some 4 backends and members and a name each.
    for (map, least) in [(BACKENDS, 1600), (MEMBERS, 1600), (DNS_NAMES, 400)] {
        assert!(capacity(&datapath, map) >= least, "{map}");
    }
    assert_eq!(datapath.status().unwrap().attached.len(), attached);
    assert_eq!(pins(&lab), pinned);
    assert_eq!(drops(&datapath), dropped);
    // A new Pod gets programs that use the larger maps, and a restart keeps these.
    let late = lab.pod("late");
    let spec = late.spec.clone();
    within(&lab.node, || datapath.add_endpoint(spec)).unwrap();
    let ask = |lab: &Lab| lab.in_pod(&late, &["udp", "10.96.1.5:80"]).line();
    // Three of four backends are nobody.
    assert!((0..40).any(|_| ask(&lab).contains("from 10.96.1.5:80")));
    drop(datapath);
    lab.stop();
    let datapath = lab.start_with(config);
    assert!(datapath.status().unwrap().last_apply.is_none(), "nothing was to be written");
    assert_eq!(capacity(&datapath, SERVICES), 1024);
    load.nothing_failed();
}

#[test]
fn beyond_the_bound_a_cluster_that_does_not_fit_is_refused_and_the_last_one_kept() {
    let _alone = alone();
    let mut lab = lab();
    let web = lab.pod("web");
    lab.service("web", crate::VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start_with(Config { max_rows: 128, ..small(&lab) });
    services(&mut lab, 0..100, web.ip);
    let world = lab.world();
    let refused = within(&lab.node, || datapath.apply(&world)).expect_err("it does not fit");
    assert!(chain(&refused).contains("SERVICES needs"), "{}", chain(&refused));
    assert_eq!(capacity(&datapath, SERVICES), 32);
    let _server = lab.serve(&web, 8080);
    assert!(lab.in_pod(&web, &["tcp", &format!("{}:80", crate::VIP)]).line().starts_with("web "));
}
