//! The other process of the netns tests; see `strake_tests::net_helper`.
#![forbid(unsafe_code)]

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    std::process::exit(strake_tests::net_helper::main(&arguments));
}
