//! The agent goes and comes back.

use serde_json::json;
use strake_datapath::{ApplyOutcome, Attachment, Config, Datapath, LoadError, UpgradeError};
use strake_tests::lab::within;

use crate::{VIP, alone, lab};

#[test]
fn a_restart_cuts_no_connection_and_loses_no_packet() {
    let _alone = alone();
    let mut lab = lab();
    let (hooked, plain, web) = (lab.pod("hooked"), lab.pod("plain"), lab.pod("web"));
    lab.opt_out(&plain);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    lab.start();
    let _server = lab.serve(&web, 8080);
    let vip = format!("{VIP}:80");
    let mut long = Vec::new();
    for pod in [&hooked, &plain] {
        let mut client = lab.in_pod(pod, &["tcp-long", &vip]);
        assert_eq!(client.line(), "connected");
        assert!(client.ask("").starts_with("web "));
        long.push(client);
    }
    // Short ones all the while, on both paths.
    let short = [&hooked, &plain].map(|pod| lab.in_pod(pod, &["tcp-many", &vip, "150", "20"]));
    lab.stop();
    for client in &mut long {
        assert!(client.ask("").starts_with("web "), "while nobody runs");
    }
    let datapath = lab.start();
    let (how, features) = (datapath.status().unwrap().attached, datapath.features());
    // A link says that it was taken over; a clsact filter (below 6.6) is replaced in place and does not say so.
    let kept = |attached: &strake_datapath::Attached| match attached.how {
        Attachment::Replaced => true,
        Attachment::Clsact => !features.tcx,
        Attachment::Fresh | Attachment::Waiting => false,
    };
    assert!(how.iter().all(kept), "{how:?}");
    let opted_out = |pod: &str| {
        let status = datapath.status().unwrap();
        status.endpoints.iter().any(|endpoint| endpoint.pod == pod && !endpoint.socket_hooks)
    };
    assert_eq!(opted_out("default/plain"), features.netns_cookie, "a Pod can opt out from Linux 5.14 on");
    assert!(!opted_out("default/hooked"));
    for client in &mut long {
        assert!(client.ask("").starts_with("web "), "after the restart");
    }
    for client in short {
        assert_eq!(client.finish(), "done 150 failed 0  names web");
    }
    assert!(matches!(lab.apply(), ApplyOutcome::Unchanged), "a restart must find its own ids and slices again");
}

#[test]
fn an_opted_out_pod_stays_so_while_the_agent_has_not_seen_the_cluster_yet() {
    let _alone = alone();
    let mut lab = lab();
    let plain = lab.pod("plain");
    lab.opt_out(&plain);
    lab.start();
    lab.stop();
    let datapath = within(&lab.node, || {
        let datapath = Datapath::start(lab.config()).unwrap();
        datapath.add_endpoint(plain.spec.clone()).unwrap();
        datapath
    });
    assert!(!datapath.status().unwrap().endpoints[0].socket_hooks);
}

#[test]
fn pinned_state_that_nobody_described_is_refused_or_discarded_as_told() {
    let _alone = alone();
    let mut lab = lab();
    lab.pod("web");
    lab.start();
    lab.stop();
    // What a version from before layouts were written down would have left.
    std::fs::remove_file(lab.config().bpf_root.join("layouts")).unwrap();
    let path = strake_datapath::maps_folder(&lab.config().bpf_root).join(strake_abi::config::CONFIG);
    let data = aya::maps::MapData::from_pin(path).unwrap();
    let map = aya::maps::Map::from_map_data(data).unwrap();
    let mut map: aya::maps::Array<_, strake_abi::config::Config> = map.try_into().unwrap();
    let mut row = map.get(&0, 0).unwrap();
    row.abi_version = 999;
    map.set(0, row, 0).unwrap();
    drop(map);
    let refused = within(&lab.node, || Datapath::start(lab.config()).err()).expect("it must not be reused");
    let strake_datapath::Error::Load(LoadError::Upgrade(UpgradeError::AbiVersion { found: 999, .. })) = refused else {
        panic!("{refused}")
    };
    let config = Config { discard_incompatible: true, ..lab.config() };
    let datapath = lab.start_with(config);
    assert!(datapath.status().unwrap().last_error.is_none());
}

#[test]
fn cleanup_leaves_no_pin_and_no_program() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let datapath = lab.start();
    drop(datapath);
    lab.stop();
    let root = lab.config().bpf_root;
    let interfaces: Vec<&str> = ["up0"].into_iter().chain(lab.pods.iter().map(|p| p.spec.interface.as_str())).collect();
    let clean = || within(&lab.node, || Datapath::cleanup(&root, &interfaces)).unwrap();
    clean();
    assert!(!root.exists());
    let _server = lab.serve(&web, 8080);
    let answer = lab.in_pod(&client, &["tcp", &format!("{VIP}:80")]).line();
    assert!(answer.starts_with("error"), "somebody still translates: {answer}");
    // Again is harmless.
    clean();
}

#[test]
fn clsact_serves_where_tcx_does_not_exist() {
    let _alone = alone();
    let mut lab = lab();
    let (client, web) = (lab.pod("client"), lab.pod("web"));
    lab.opt_out(&client);
    lab.service("web", VIP, "TCP", 80, json!({}), &[(web.ip, 8080)]);
    let config = Config { force_clsact: true, ..lab.config() };
    lab.start_with(config.clone());
    let _server = lab.serve(&web, 8080);
    let vip = format!("{VIP}:80");
    let mut long = lab.in_pod(&client, &["tcp-long", &vip]);
    assert_eq!(long.line(), "connected");
    lab.stop();
    assert!(long.ask("").starts_with("web "), "filters stay when the agent goes");
    lab.start_with(config);
    assert!(long.ask("").starts_with("web "), "and are replaced in place");
    assert!(lab.in_pod(&client, &["tcp", &vip]).line().starts_with("web "));
}
