//! A stub resolver for A and AAAA records: /etc/resolv.conf's servers, search list and ndots, over UDP (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::time::Duration;

/// Of a record.
#[derive(Clone, Copy)]
struct Kind {
    name: &'static str,
    number: u8,
}

const A: Kind = Kind { name: "A", number: 1 };
const AAAA: Kind = Kind { name: "AAAA", number: 28 };

struct Conf {
    servers: Vec<IpAddr>,
    search: Vec<String>,
    ndots: usize,
}

fn conf() -> Conf {
    let mut conf = Conf { servers: Vec::new(), search: Vec::new(), ndots: 1 };
    for line in std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default().lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => conf.servers.extend(words.next().and_then(|w| w.parse::<IpAddr>().ok())),
            Some("search") => conf.search = words.map(str::to_owned).collect(),
            Some("options") => {
                for word in words {
                    if let Some(n) = word.strip_prefix("ndots:").and_then(|n| n.parse().ok()) {
                        conf.ndots = n;
                    }
                }
            }
            _ => {}
        }
    }
    conf
}

/// The IPv4 addresses of `name`, tried as the resolver of a libc would try it.
pub fn resolve(name: &str) -> Result<Vec<Ipv4Addr>, String> {
    match name.parse() {
        Ok(ip) => Ok(vec![ip]),
        Err(_) => search(name, A)?.iter().map(|data| Ok(Ipv4Addr::from(octets(data)?))).collect(),
    }
}

/// The IPv6 addresses of `name`.
pub fn resolve6(name: &str) -> Result<Vec<Ipv6Addr>, String> {
    match name.parse() {
        Ok(ip) => Ok(vec![ip]),
        Err(_) => search(name, AAAA)?.iter().map(|data| Ok(Ipv6Addr::from(octets(data)?))).collect(),
    }
}

fn octets<const N: usize>(data: &[u8]) -> Result<[u8; N], String> {
    data.try_into().map_err(|_| format!("a record is {} bytes long, not {N}", data.len()))
}

/// What the records of a kind hold.
fn search(name: &str, kind: Kind) -> Result<Vec<Vec<u8>>, String> {
    let conf = conf();
    let absolute = name.trim_end_matches('.').to_owned();
    let mut candidates: Vec<String> = conf.search.iter().map(|s| format!("{absolute}.{s}")).collect();
    if name.ends_with('.') {
        candidates = vec![absolute];
    } else if absolute.matches('.').count() >= conf.ndots {
        candidates.insert(0, absolute);
    } else {
        candidates.push(absolute);
    }
    let mut last = String::from("/etc/resolv.conf names no server");
    for candidate in &candidates {
        for server in &conf.servers {
            match query(SocketAddr::new(*server, 53), candidate, kind) {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {
                    last = format!("{candidate} has no {} record", kind.name);
                    break;
                }
                Err(error) => last = format!("asking {server} for {candidate}: {error}"),
            }
        }
    }
    Err(format!("{name} cannot be resolved: {last}"))
}

fn query(server: SocketAddr, name: &str, kind: Kind) -> Result<Vec<Vec<u8>>, String> {
    let socket = UdpSocket::bind("0.0.0.0:0").map_err(|e| e.to_string())?;
    socket.connect(server).map_err(|e| e.to_string())?;
    socket.set_read_timeout(Some(Duration::from_secs(2))).map_err(|e| e.to_string())?;
    let id = socket.local_addr().map_err(|e| e.to_string())?.port().to_be_bytes();
    let mut message = vec![id[0], id[1], 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in name.split('.') {
        let len =
            u8::try_from(label.len()).ok().filter(|n| (1..64).contains(n)).ok_or("a label is not 1 to 63 bytes")?;
        message.push(len);
        message.extend(label.bytes());
    }
    message.extend([0, 0, kind.number, 0, 1]);
    for _ in 0..3 {
        socket.send(&message).map_err(|e| e.to_string())?;
        let mut buf = [0; 1500];
        match socket.recv(&mut buf) {
            Ok(n) if n >= 12 && buf[..2] == id => {
                return answers(&buf[..n], kind).ok_or_else(|| "the answer is malformed".into());
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("no answer in 6 s".into())
}

fn answers(message: &[u8], wanted: Kind) -> Option<Vec<Vec<u8>>> {
    let u16_at = |at: usize| Some(u16::from_be_bytes([*message.get(at)?, *message.get(at + 1)?]));
    let mut at = 12;
    for _ in 0..u16_at(4)? {
        at = skip_name(message, at)? + 4;
    }
    let mut found = Vec::new();
    for _ in 0..u16_at(6)? {
        at = skip_name(message, at)?;
        let (kind, len) = (u16_at(at)?, usize::from(u16_at(at + 8)?));
        let data = message.get(at + 10..at + 10 + len)?;
        if kind == u16::from(wanted.number) {
            found.push(data.to_vec());
        }
        at += 10 + len;
    }
    Some(found)
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *message.get(at)? {
            0 => return Some(at + 1),
            n if n >= 0xc0 => return Some(at + 2),
            n => at += 1 + usize::from(n),
        }
    }
}
