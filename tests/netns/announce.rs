//! LoadBalancer addresses of the nodes' own network: found by ARP and neighbour discovery alone, for as long as they are
//! announced.

use std::net::IpAddr;

use serde_json::json;
use strake_datapath::boot_ns;
use strake_tests::lab::{Lab, run};

use crate::{VIP, alone, lab};

/// Of the network between the node and the machine outside; nobody has them.
const ADDRESS: &str = "192.0.2.50";
const ADDRESS6: &str = "fd00:192::50";

fn mac(lab: &Lab) -> [u8; 6] {
    let shown = run(&["ip", "-n", &lab.node, "-o", "link", "show", "up0"]);
    let mut words = shown.split_whitespace().skip_while(|word| *word != "link/ether").skip(1);
    let bytes: Vec<u8> = words.next().unwrap().split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    bytes.try_into().unwrap()
}

#[test]
fn an_announced_address_is_found_until_its_time_runs_out() {
    let _alone = alone();
    let mut lab = lab();
    lab.with_ipv6();
    let web = lab.pod("web");
    let web6 = lab.pod6(&web);
    lab.put(json!({
        "kind": "Service",
        "metadata": {"namespace": "default", "name": "web"},
        "spec": {
            "type": "LoadBalancer", "clusterIP": VIP, "clusterIPs": [VIP, "fd00:96::7"], "ports": [{"port": 80}],
            "ipFamilies": ["IPv4", "IPv6"], "externalTrafficPolicy": "Local",
        },
        "status": {"loadBalancer": {"ingress": [{"ip": ADDRESS}, {"ip": ADDRESS6}]}},
    }));
    lab.endpoints("web", "TCP", &[(web.ip, 8080)]);
    lab.put(json!({
        "kind": "EndpointSlice",
        "metadata": {"namespace": "default", "name": "web-v6", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv6", "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
        "endpoints": [{"addresses": [web6], "nodeName": "n1"}],
    }));
    let datapath = lab.start();
    let _server = lab.serve(&web, 8080);
    let mut six = lab.in_pod(&web, &["serve", &format!("[{web6}]:8080"), "web6"]);
    assert_eq!(six.line(), "ready");
    let fronts = [format!("{ADDRESS}:80"), format!("[{ADDRESS6}]:80")];
    for front in &fronts {
        let answer = lab.outside(&["tcp", front]).line();
        assert!(answer.starts_with("error"), "nobody announces it: {answer}");
    }

    let announcer = datapath.announcer().unwrap();
    let addresses: [IpAddr; 2] = [ADDRESS.parse().unwrap(), ADDRESS6.parse().unwrap()];
    let second = 1_000_000_000;
    announcer.answer(&addresses, mac(&lab), boot_ns() + 60 * second).unwrap();
    // What was not found is remembered for a while.
    let forget = || {
        run(&["ip", "-n", &lab.outside, "neigh", "flush", "all"]);
    };
    forget();
    for front in &fronts {
        let answer = lab.outside(&["tcp", front]).line();
        assert!(answer.starts_with("web"), "{front}: {answer}");
        assert!(answer.contains("192.0.2.100:") || answer.contains("fd00:192::100"), "the client's address: {answer}");
    }
    assert!(datapath.status().unwrap().counters["neighbour_answered"] >= 2);
    assert_eq!(announcer.answered().unwrap().len(), 2);

    // The agent says no more: the kernel ends it.
    announcer.answer(&addresses, mac(&lab), boot_ns() + second / 2).unwrap();
    std::thread::sleep(std::time::Duration::from_millis(600));
    forget();
    for front in &fronts {
        let answer = lab.outside(&["tcp", front]).line();
        assert!(answer.starts_with("error"), "it has ended: {answer}");
    }
    assert!(announcer.answered().unwrap().is_empty());
    announcer.sweep().unwrap();
    announcer.silence(&addresses).unwrap();
}
