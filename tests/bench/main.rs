//! `strake-bench proxy|hooks|dns|scale|api`: us beside the peers, interleaved in one run, in namespaces of their own.
//!
//! Prints a table and writes `target/bench/NAME.json`. Needs root; dnsmasq, nft and iptables as peers are installed by
//! `cargo xtask bench`.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a bench that cannot be set up ends with the reason")]

mod api;
mod dns;
mod driver;
mod hooks;
mod proxy;
mod report;
mod rooms;
mod scale;
mod worker;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let code = match words.as_slice() {
        ["helper", ..] => worker::main(&arguments[1..]),
        ["proxy", rest @ ..] => proxy::run(Scale::of(rest), rest),
        ["hooks", rest @ ..] => hooks::run(Scale::of(rest)),
        ["dns", rest @ ..] => dns::run(Scale::of(rest)),
        ["api", rest @ ..] => api::run(Scale::of(rest)),
        ["scale", rest @ ..] => scale::run(Scale::of(rest), rest),
        _ => {
            eprintln!(
                "usage: strake-bench proxy [--quick] [--services N,N] [--measures crr,connect,rr,stream,mix]\n       \
                 strake-bench hooks [--quick]\n       strake-bench dns [--quick]\n       strake-bench scale [--quick] [--alone]\n       strake-bench api [--quick]"
            );
            2
        }
    };
    std::process::exit(code);
}

/// How long to measure.
#[derive(Clone, Copy)]
pub struct Scale {
    /// Blocks of each target.
    pub rounds: usize,
    /// Connections or questions in a block.
    pub block: usize,
    /// Connections of a client that mixes addresses.
    pub mixed: usize,
}

impl Scale {
    pub fn is_quick(&self) -> bool {
        self.rounds < 24
    }

    fn of(arguments: &[&str]) -> Self {
        if arguments.contains(&"--quick") {
            Self { rounds: 4, block: 100, mixed: 2_000 }
        } else {
            Self { rounds: 24, block: 300, mixed: 100_000 }
        }
    }
}

/// How the lab starts this program as its other process.
fn lab() -> strake_tests::lab::Lab {
    let this = std::env::current_exe().unwrap();
    strake_tests::lab::Lab::new(&[this.to_str().unwrap(), "helper"])
}
