//! `tests/golden/*.yaml`: objects of a cluster in, map contents of node n1 out. Set `STRAKE_BLESS=1` to write the
//! expected files anew, and read the difference before you commit it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

mod common;

use std::fs;
use std::path::Path;

use common::{Model, change, sizes};
use strake_datapath::{Config, Installed, LbMode, MapSizes, Runtime, apply, check, compile, diff};
use strake_state::{Cache, Change, Kind, World};

fn world(objects: &[serde_json::Value]) -> World {
    let mut cache = Cache::new("n1");
    for kind in Kind::ALL {
        cache.apply(Change::Init(kind));
    }
    for object in objects {
        cache.apply(change(object.clone(), true));
    }
    for kind in Kind::ALL {
        cache.apply(Change::InitDone(kind));
    }
    cache.snapshot()
}

fn contents(input: &str, config: &Config) -> String {
    let list: serde_json::Value = serde_saphyr::from_str(input).unwrap();
    let world = world(list["items"].as_array().unwrap());
    let desired = compile(&world, config, Runtime::default());
    check(&desired, &MapSizes::default()).unwrap();
    let mut model = Model::default();
    let (plan, _) = diff(&Installed::empty(&sizes()), &desired).unwrap();
    apply(&plan, &mut model).unwrap();
    let mut text = model.render();
    for warning in &desired.warnings {
        text.push_str(&format!("WARNING {} {}\n", warning.object, warning.message));
    }
    text
}

fn config() -> Config {
    Config::new("n1", "/cgroup", "/pins")
}

/// Beside another CNI plugin a node knows its Pods by its podCIDR: where one has none, everything is translated.
#[test]
fn a_node_without_pod_cidr_is_sent_nothing_in_packets() {
    let input = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden/dsr.yaml")).unwrap();
    let alone = Config { lb_mode: LbMode::Dsr, host_ports: false, dns: false, ..config() };
    assert!(contents(&input, &alone).contains(" dsr"));
    let without = input.replace("  spec: {podCIDR: 10.244.1.0/24, podCIDRs: [10.244.1.0/24]}\n", "");
    assert_ne!(without, input);
    assert!(!contents(&without, &alone).contains(" dsr"));
    // With a network of ours it is a matter of time.
    assert!(contents(&without, &Config { lb_mode: LbMode::Dsr, ..config() }).contains(" dsr"));
    assert!(!contents(&input, &config()).contains(" dsr"));
}

#[test]
fn map_contents_are_as_written_down() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/golden");
    let bless = std::env::var_os("STRAKE_BLESS").is_some();
    let mut wrong = Vec::new();
    let mut cases = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|extension| extension != "yaml") {
            continue;
        }
        cases += 1;
        let lb_mode = if path.file_stem().is_some_and(|name| name == "dsr") { LbMode::Dsr } else { LbMode::Snat };
        let found = contents(&fs::read_to_string(&path).unwrap(), &Config { lb_mode, ..config() });
        let expected = path.with_extension("txt");
        if bless {
            fs::write(&expected, &found).unwrap();
        } else if fs::read_to_string(&expected).unwrap_or_default() != found {
            wrong.push(format!("{} gives:\n{found}", path.display()));
        }
    }
    assert!(cases > 0, "no golden files");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
