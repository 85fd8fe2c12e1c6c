//! The clients: short connections counted, one long connection watched, datagrams sent and answered.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use crate::dns;

struct Url {
    host: String,
    port: u16,
    path: String,
}

fn parse(url: &str) -> Result<Url, String> {
    let rest = url.strip_prefix("http://").ok_or_else(|| format!("{url}: only http:// is known"))?;
    let (authority, path) = rest.find('/').map_or((rest, "/"), |at| rest.split_at(at));
    // An IPv6 address stands in brackets (RFC 3986, 3.2.2).
    let (host, port) = match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((host, port)) => (host, port.strip_prefix(':')),
        None => authority.split_once(':').map_or((authority, None), |(host, port)| (host, Some(port))),
    };
    let port = port.map_or(Ok(80), str::parse).map_err(|e| format!("{url}: the port: {e}"))?;
    Ok(Url { host: host.into(), port, path: path.into() })
}

/// An address as it is, or the first that a name has.
fn address(host: &str) -> Result<IpAddr, String> {
    match host.parse() {
        Ok(ip) => Ok(ip),
        Err(_) => Ok((*dns::resolve(host)?.first().ok_or("no address")?).into()),
    }
}

fn connect(url: &Url) -> Result<TcpStream, String> {
    let to = SocketAddr::new(address(&url.host)?, url.port);
    let stream =
        TcpStream::connect_timeout(&to, Duration::from_secs(3)).map_err(|e| format!("connecting to {to}: {e}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).map_err(|e| e.to_string())?;
    Ok(stream)
}

fn request(stream: &mut TcpStream, url: &Url) -> Result<(), String> {
    let text = format!("GET {} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", url.path, url.host);
    stream.write_all(text.as_bytes()).map_err(|e| format!("sending the request: {e}"))
}

fn get(url: &Url) -> Result<String, String> {
    let mut stream = connect(url)?;
    request(&mut stream, url)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).map_err(|e| format!("reading the answer: {e}"))?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("the answer ended early")?;
    if !head.starts_with("HTTP/1.1 200") {
        return Err(head.lines().next().unwrap_or_default().to_owned());
    }
    Ok(body.trim().to_owned())
}

pub fn call(url: &str, n: u64) -> Result<ExitCode, String> {
    let url = parse(url)?;
    let mut answers: BTreeMap<String, u64> = BTreeMap::new();
    let mut failed = 0;
    for _ in 0..n {
        match get(&url) {
            Ok(name) => *answers.entry(name).or_default() += 1,
            Err(error) => {
                failed += 1;
                eprintln!("{error}");
            }
        }
    }
    for (name, count) in &answers {
        println!("{count:6}  {name}");
    }
    if failed > 0 {
        return Err(format!("{failed} of {n} requests failed"));
    }
    Ok(ExitCode::SUCCESS)
}

pub fn load(url: &str, rate: u64, seconds: u64) -> Result<ExitCode, String> {
    let url = parse(url)?;
    let start = Instant::now();
    let (mut ok, mut failed) = (0_u64, 0_u64);
    let mut errors: BTreeMap<String, u64> = BTreeMap::new();
    for n in 0..rate * seconds {
        let due = start + Duration::from_secs_f64(n as f64 / rate as f64);
        std::thread::sleep(due.saturating_duration_since(Instant::now()));
        match get(&url) {
            Ok(_) => ok += 1,
            Err(error) => {
                failed += 1;
                eprintln!("{:.3} s: {error}", start.elapsed().as_secs_f64());
                *errors.entry(error).or_default() += 1;
            }
        }
    }
    println!("{{\"ok\":{ok},\"failed\":{failed},\"errors\":{}}}", json_string(&format!("{errors:?}")));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

pub fn stream(url: &str, seconds: u64) -> Result<ExitCode, String> {
    let url = parse(url)?;
    let mut stream = connect(&url)?;
    request(&mut stream, &url)?;
    let start = Instant::now();
    let mut lines = 0_u64;
    let mut names: BTreeMap<String, u64> = BTreeMap::new();
    let mut ended = String::new();
    for line in BufReader::new(stream).lines() {
        match line {
            Ok(line) => {
                lines += 1;
                if let Some((name, n)) = line.split_once(' ').filter(|(_, n)| n.parse::<u64>().is_ok()) {
                    let _ = n;
                    *names.entry(name.to_owned()).or_default() += 1;
                }
            }
            Err(error) => {
                ended = format!("reading the stream: {error}");
                break;
            }
        }
        if start.elapsed() > Duration::from_secs(seconds) {
            println!("{{\"lines\":{lines},\"servers\":{},\"alive\":true}}", names.len());
            return Ok(ExitCode::SUCCESS);
        }
    }
    if ended.is_empty() {
        ended = "the server closed the stream".into();
    }
    Err(format!("after {:.1} s and {lines} lines: {ended}", start.elapsed().as_secs_f64()))
}

pub fn udp_send(to: &str, text: &str, n: u64) -> Result<ExitCode, String> {
    let (host, port) = to.rsplit_once(':').ok_or_else(|| format!("{to} is not HOST:PORT"))?;
    let port: u16 = port.parse().map_err(|e| format!("port {port}: {e}"))?;
    let ip = address(host.trim_start_matches('[').trim_end_matches(']'))?;
    let any = if ip.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let socket = UdpSocket::bind(any).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(3))).map_err(|e| e.to_string())?;
    for _ in 0..n {
        socket.send_to(text.as_bytes(), (ip, port)).map_err(|e| format!("sending to {ip}:{port}: {e}"))?;
        let mut buf = [0; 2048];
        let (len, from) = socket.recv_from(&mut buf).map_err(|e| format!("waiting for {ip}:{port}: {e}"))?;
        println!("{from} {}", String::from_utf8_lossy(&buf[..len]));
    }
    Ok(ExitCode::SUCCESS)
}

fn json_string(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}
