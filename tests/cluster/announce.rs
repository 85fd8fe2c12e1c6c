//! LoadBalancer Services without a cloud: an address of the pool, announced by one node, moved when that node goes. The
//! client is the host's shell, a machine of the nodes' network like any other.

use std::process::Command;
use std::time::{Duration, Instant};

use strake_rig::Room;
use strake_tests::cluster::{Cluster, deploy_web};
use strake_tests::command::{Outcome, eventually, run};

const LEASE: &str = "strake-l2-default.lb";
const EXCLUDE: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

fn curl(url: &str) -> Outcome {
    let mut command = Command::new("curl");
    command.args(["-sS", "--max-time", "2", url]);
    run(command)
}

fn holder(cluster: &Cluster) -> String {
    let path = "jsonpath={.spec.holderIdentity}";
    let lease = cluster.kubectl(&["get", "lease", "-n", "kube-system", LEASE, "-o", path]);
    if lease.ok() { lease.text().to_owned() } else { String::new() }
}

fn held_by(cluster: &Cluster, node: &str) {
    eventually(&format!("{node} announces"), || {
        let holder = holder(cluster);
        if holder == node { Ok(()) } else { Err(format!("{holder:?} does\n{}", cluster.log_tail())) }
    });
}

/// The hardware address of a node's uplink.
fn mac(room: &Room) -> String {
    let mut command = room.command("ip");
    command.args(["-o", "link", "show", "eth0"]);
    let shown = run(command);
    let words: Vec<&str> = shown.text().split_whitespace().collect();
    let at = words.iter().position(|word| *word == "link/ether").unwrap();
    words[at + 1].to_owned()
}

/// Asks the network anew, and says who answered.
fn neighbour(cluster: &Cluster, ip: &str) -> String {
    let link = cluster.host_link();
    let neigh = |args: &[&str]| {
        let mut command = Command::new("ip");
        command.args(["neigh"]).args(args).args(["dev", &link]);
        run(command)
    };
    neigh(&["flush", "to", ip]).text();
    curl(&format!("http://{ip}/"));
    neigh(&["show", "to", ip]).text().to_owned()
}

fn exclude(cluster: &Cluster, node: &str, on: bool) {
    let label = if on { format!("{EXCLUDE}=") } else { format!("{EXCLUDE}-") };
    cluster.kubectl(&["label", "node", node, &label]).text();
}

#[test]
fn a_load_balancer_address_is_given_announced_and_moves_with_its_node() {
    let cluster = Cluster::start_with("lb", 2, &["--load-balancer-pool", "{net}.200-{net}.201"]);
    deploy_web(&cluster);
    let [a, b, c, _] = cluster.host_address().octets();
    let (first, second) = (format!("{a}.{b}.{c}.200"), format!("{a}.{b}.{c}.201"));
    let (node1, node2) = (&cluster.rooms()[0], &cluster.rooms()[1]);

    let expose = ["expose", "deployment", "web", "--name=lb", "--type=LoadBalancer", "--port=80", "--target-port=http"];
    cluster.kubectl(&expose).text();
    let address = |name: &str| {
        let ingress = "jsonpath={.status.loadBalancer.ingress[*].ip} {.status.loadBalancer.ingress[*].ipMode}";
        cluster.kubectl(&["get", "service", name, "-o", ingress]).text().to_owned()
    };
    let given = |name: &str, ip: &str| {
        eventually(&format!("{name} has {ip}"), || {
            let has = address(name);
            if has == format!("{ip} VIP") { Ok(()) } else { Err(has) }
        });
    };
    given("lb", &first);
    let shown = cluster.kubectl(&["get", "service", "lb"]);
    assert!(shown.text().contains("EXTERNAL-IP") && shown.text().contains(&first), "{shown}");

    // The pool's end, and its next beginning.
    for name in ["other", "third"] {
        cluster.kubectl(&["create", "service", "loadbalancer", name, "--tcp=80:80"]).text();
        if name == "other" {
            given(name, &second);
        }
    }
    eventually("the third hears why it waits", || {
        let described = cluster.kubectl(&["describe", "service", "third"]);
        let why = format!("all 2 IPv4 addresses of the pool {first}-{second} are taken");
        if described.text().contains("PoolExhausted") && described.text().contains(&why) {
            Ok(())
        } else {
            Err(described.to_string())
        }
    });
    assert_eq!(address("third"), "");
    cluster.kubectl(&["delete", "service", "other"]).text();
    given("third", &second);

    // One node answers; it stays the one while it may, and lets go at once when it may not.
    exclude(&cluster, &node1.name, true);
    held_by(&cluster, &node2.name);
    let url = format!("http://{first}/");
    eventually("the client reaches it", || {
        let answer = curl(&url);
        if answer.ok() && answer.text().starts_with("web-") { Ok(()) } else { Err(answer.to_string()) }
    });
    exclude(&cluster, &node1.name, false);
    for _ in 0..3 {
        let found = neighbour(&cluster, &first);
        assert!(found.contains(&mac(node2)), "{found}");
    }
    let listed = cluster.strake(&["service", "list", "-o", "wide"]);
    let line = listed.text().lines().find(|line| line.contains(&format!("{first}:80"))).unwrap_or_default();
    assert!(line.contains(&node2.name), "{listed}");
    let status = cluster.strake(&["status"]);
    let told = status.text().lines().find(|line| line.contains("announcements") && line.contains("default/lb"));
    assert!(told.is_some_and(|line| line.contains(&format!("node={}", node2.name))), "{status}");
    println!("{shown}{}\n{}\n{line}", listed.text().lines().next().unwrap_or_default(), told.unwrap_or_default());
    let described = cluster.kubectl(&["describe", "service", "lb"]);
    for text in ["AddressAllocated", &format!("Node {} announces {first}", node2.name)] {
        assert!(described.text().contains(text), "{text}: {described}");
    }

    // With policy Local the Pod sees the client.
    let local = r#"{"spec":{"externalTrafficPolicy":"Local"}}"#;
    cluster.kubectl(&["patch", "service", "lb", "-p", local]).text();
    let client = cluster.host_address().to_string();
    eventually("the Pod sees the client's address", || {
        let seen = curl(&format!("{url}client-ip"));
        if seen.ok() && seen.text() == client { Ok(()) } else { Err(seen.to_string()) }
    });

    // A node that shuts down hands over at once.
    let stopped = Instant::now();
    cluster.signal(cluster.pid(node2), "TERM");
    held_by(&cluster, &node1.name);
    assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
    assert!(curl(&url).ok());
    let found = neighbour(&cluster, &first);
    assert!(found.contains(&mac(node1)), "{found}");

    // And back, to die without a word: its kernel falls silent, then the other takes over.
    cluster.start_agent(node2);
    exclude(&cluster, &node1.name, true);
    held_by(&cluster, &node2.name);
    exclude(&cluster, &node1.name, false);
    eventually("the client reaches it again", || {
        let found = neighbour(&cluster, &first);
        if found.contains(&mac(node2)) { Ok(()) } else { Err(found) }
    });
    let died = Instant::now();
    cluster.signal(cluster.pid(node2), "KILL");
    held_by(&cluster, &node1.name);
    let after = died.elapsed();
    assert!(after > Duration::from_secs(9) && after < Duration::from_secs(20), "{after:?}");
    eventually("the client reaches it after the agent's death", || {
        let answer = curl(&format!("{url}client-ip"));
        if answer.ok() && answer.text() == client { Ok(()) } else { Err(answer.to_string()) }
    });
    for _ in 0..3 {
        let found = neighbour(&cluster, &first);
        assert!(found.contains(&mac(node1)), "{found}");
    }
    println!("taken over after {after:?}");

    let nobody = |why: &str| {
        eventually(&format!("{why}: nobody answers any more, and no Lease is left"), || {
            let lease = cluster.kubectl(&["get", "lease", "-n", "kube-system", LEASE]);
            let found = neighbour(&cluster, &first);
            if !lease.ok() && !found.contains("lladdr") { Ok(()) } else { Err(format!("{found} {lease}")) }
        });
    };
    // A Service that is no load balancer any more has none, and gets one anew when it is one again.
    let patch = |spec: &str| cluster.kubectl(&["patch", "service", "lb", "-p", spec]).text().to_owned();
    patch(r#"{"spec":{"type":"ClusterIP","externalTrafficPolicy":null,"healthCheckNodePort":null}}"#);
    nobody("it lost its type");
    patch(r#"{"spec":{"type":"LoadBalancer"}}"#);
    given("lb", &first);
    held_by(&cluster, &node1.name);
    eventually("the client reaches it as before", || {
        let answer = curl(&url);
        if answer.ok() { Ok(()) } else { Err(answer.to_string()) }
    });

    // Gone is gone.
    cluster.kubectl(&["delete", "service", "lb"]).text();
    nobody("it is deleted");
}
