//! A stub resolver for A records: /etc/resolv.conf's servers, search list and ndots, over UDP (RFC 1035).

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

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
    if let Ok(ip) = name.parse() {
        return Ok(vec![ip]);
    }
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
            match query(SocketAddr::new(*server, 53), candidate) {
                Ok(found) if !found.is_empty() => return Ok(found),
                Ok(_) => {
                    last = format!("{candidate} has no A record");
                    break;
                }
                Err(error) => last = format!("asking {server} for {candidate}: {error}"),
            }
        }
    }
    Err(format!("{name} cannot be resolved: {last}"))
}

fn query(server: SocketAddr, name: &str) -> Result<Vec<Ipv4Addr>, String> {
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
    message.extend([0, 0, 1, 0, 1]);
    for _ in 0..3 {
        socket.send(&message).map_err(|e| e.to_string())?;
        let mut buf = [0; 1500];
        match socket.recv(&mut buf) {
            Ok(n) if n >= 12 && buf[..2] == id => {
                return answers(&buf[..n]).ok_or_else(|| "the answer is malformed".into());
            }
            Ok(_) => {}
            Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(e) => return Err(e.to_string()),
        }
    }
    Err("no answer in 6 s".into())
}

fn answers(message: &[u8]) -> Option<Vec<Ipv4Addr>> {
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
        if kind == 1 {
            found.push(Ipv4Addr::from(<[u8; 4]>::try_from(data).ok()?));
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
