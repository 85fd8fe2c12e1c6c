//! `tests/golden/*.yaml`: objects of a cluster in, map contents of node n1 out. Set `STRAKE_BLESS=1` to write the
//! expected files anew, and read the difference before you commit it.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

mod common;

use std::fs;
use std::path::Path;

use common::{Model, change, sizes};
use strake_datapath::{Config, Installed, MapSizes, Runtime, apply, check, compile, diff};
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

fn contents(input: &str) -> String {
    let list: serde_json::Value = serde_saphyr::from_str(input).unwrap();
    let world = world(list["items"].as_array().unwrap());
    let desired = compile(&world, &Config::new("n1", "/cgroup", "/pins"), Runtime::default());
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
        let found = contents(&fs::read_to_string(&path).unwrap());
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
