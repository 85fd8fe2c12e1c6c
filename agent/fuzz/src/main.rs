//! libFuzzer over what the agent reads from outside. `STRAKE_FUZZ_TARGET` names one; `cargo xtask fuzz` sets it.
#![no_main]

#[path = "../../tests/targets/mod.rs"]
mod targets;

use std::sync::LazyLock;

use libfuzzer_sys::fuzz_target;

static TARGET: LazyLock<fn(&[u8])> = LazyLock::new(|| {
    let name = std::env::var("STRAKE_FUZZ_TARGET").expect("STRAKE_FUZZ_TARGET names the target");
    let found = targets::TARGETS.into_iter().find(|(known, _)| *known == name);
    found.unwrap_or_else(|| panic!("there is no target {name}")).1
});

fuzz_target!(|data: &[u8]| TARGET(data));
