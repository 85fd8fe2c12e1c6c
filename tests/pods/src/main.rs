//! The demo and test image: one static program that is the web server, the client and the tools of a test Pod.
//!
//! It runs alone in an image (no shell, no libc files, no /etc/nsswitch.conf), so it resolves names itself; see
//! `dns.rs`. It knows nothing of Strake: everything it does, any Pod could do.

mod client;
mod dns;
mod signals;
mod web;

use std::io::{IsTerminal, Read, Write};
use std::process::ExitCode;

const USAGE: &str = "usage: demo COMMAND
  web [--port 8080] [--drain 2] [--six]  answer HTTP with this Pod's name; /stream never ends; SIGTERM drains first;
                                         --six: of both families
  call URL [-n 30]                       open N connections one after another and count who answered
  load URL [--rate 50] [--seconds 10]    open RATE connections a second; print ok and failed as JSON
  stream URL [--seconds 10]              hold one connection and read from it; print what came as JSON
  resolve NAME                           print the A records of NAME, by /etc/resolv.conf
  resolve6 NAME                          print its AAAA records
  udp-echo [--port 8080] [--six]         send every datagram back with this Pod's name in front
  udp-send HOST:PORT TEXT [-n 1]         send datagrams and print the answers
  sleep                                  wait for SIGTERM
  cat | echo WORDS | exit CODE | env | tty | read FILE | fail-after SECONDS";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match run(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("demo: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run(words: &[&str]) -> Result<ExitCode, String> {
    let option = |name: &str, default: u64| -> Result<u64, String> {
        match words.iter().position(|w| *w == name) {
            None => Ok(default),
            Some(at) => {
                words.get(at + 1).and_then(|v| v.parse().ok()).ok_or_else(|| format!("{name} wants a whole number"))
            }
        }
    };
    let port = || option("--port", 8080).and_then(|p| u16::try_from(p).map_err(|_| format!("port {p} is over 65535")));
    let any = || if words.contains(&"--six") { "::" } else { "0.0.0.0" };
    match words {
        ["web", ..] => {
            signals::exit_on_term(option("--drain", 2)?);
            web::serve(any(), port()?)?;
        }
        ["udp-echo", ..] => {
            signals::exit_on_term(0);
            web::serve_udp(any(), port()?)?;
        }
        ["call", url, ..] => return client::call(url, option("-n", 30)?),
        ["load", url, ..] => return client::load(url, option("--rate", 50)?, option("--seconds", 10)?),
        ["stream", url, ..] => return client::stream(url, option("--seconds", 10)?),
        ["udp-send", to, text, ..] => return client::udp_send(to, text, option("-n", 1)?),
        ["resolve", name] => {
            for address in dns::resolve(name)? {
                println!("{address}");
            }
        }
        ["resolve6", name] => {
            for address in dns::resolve6(name)? {
                println!("{address}");
            }
        }
        ["sleep", ..] => signals::wait_for_term(),
        ["cat"] => {
            std::io::copy(&mut std::io::stdin(), &mut std::io::stdout()).map_err(|e| format!("copying stdin: {e}"))?;
        }
        ["echo", rest @ ..] => println!("{}", rest.join(" ")),
        ["exit", code] => return Ok(ExitCode::from(code.parse::<u8>().map_err(|e| format!("exit {code}: {e}"))?)),
        ["env"] => {
            for (name, value) in std::env::vars() {
                println!("{name}={value}");
            }
        }
        ["read", file] => {
            let mut content = Vec::new();
            std::fs::File::open(file)
                .and_then(|mut f| f.read_to_end(&mut content))
                .map_err(|e| format!("reading {file}: {e}"))?;
            std::io::stdout().write_all(&content).map_err(|e| format!("writing to stdout: {e}"))?;
        }
        ["tty"] => {
            println!("stdin {} stdout {}", std::io::stdin().is_terminal(), std::io::stdout().is_terminal());
        }
        ["fail-after", seconds] => {
            let seconds = seconds.parse().map_err(|e| format!("fail-after {seconds}: {e}"))?;
            println!("failing in {seconds} s");
            std::thread::sleep(std::time::Duration::from_secs(seconds));
            return Err("failed as asked".into());
        }
        _ => return Err(USAGE.into()),
    }
    Ok(ExitCode::SUCCESS)
}
