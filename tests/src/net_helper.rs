//! The other process of a lab: a small server or client that is started in a network namespace and a cgroup.
//!
//! Arguments: `CGROUP|- COMMAND ...`. Results are lines on standard output; an error of the network is the line
//! `error KIND`, because tests expect some.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, sendto, setsockopt, socket, sockopt,
};
use socket2::{Domain, Protocol, Socket, Type};

const TIMEOUT: Duration = Duration::from_secs(3);

/// Runs one command; returns the exit code.
pub fn main(arguments: &[String]) -> i32 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let Err(error) = enter_cgroup(words.first().unwrap_or(&"-")) {
        eprintln!("{error}");
        return 2;
    }
    let result = match words.get(1..).unwrap_or_default() {
        ["serve", addr, name] => serve(addr, name),
        ["tcp", addr] => tcp(addr),
        ["tcp-many", addr, count, pause_ms] => tcp_many(addr, number(count), number(pause_ms)),
        ["tcp-long", addr] => tcp_long(addr),
        ["tcp-until", addr, pause_ms] => until(number(pause_ms), short(addr)),
        ["tcp-stream", addr, pause_ms] => {
            dial(address(addr)).and_then(|stream| until(number(pause_ms), stream_on(stream)))
        }
        ["udp-until", addr, pause_ms] => until(number(pause_ms), short_udp(addr)),
        ["udp-stream", addr, pause_ms] => {
            socket_for(address(addr)).and_then(|socket| until(number(pause_ms), udp_on(socket, address(addr))))
        }
        ["udp", addr] => udp(addr),
        ["sink", addr] => sink(addr),
        ["pour", addr, bytes] => pour(addr, number(bytes)),
        ["udp-from", port, addr] => udp_from(number(port) as u16, addr),
        ["udp-long", addr] => udp_long(addr),
        ["udp-connected", addr] => udp_connected(addr),
        ["sctp-serve", addr, name] => sctp_serve(addr, name),
        ["sctp", addr] => sctp(addr, 0),
        ["sctp-bulk", addr, bytes] => sctp(addr, number(bytes) as usize),
        ["sctp-long", addr] => sctp_long(addr),
        ["dns", server, name, kind] => dns(server, name, number(kind) as u16),
        ["spoof", source, destination] => spoof(source, destination),
        other => {
            eprintln!("no such command: {other:?}");
            return 2;
        }
    };
    if let Err(error) = result {
        say(&format!("error {:?}", error.kind()));
    }
    0
}

/// Moves this process into a cgroup; `-` stays where it is.
pub fn enter_cgroup(cgroup: &str) -> io::Result<()> {
    if cgroup == "-" {
        return Ok(());
    }
    std::fs::write(format!("{cgroup}/cgroup.procs"), "0")
        .map_err(|error| io::Error::other(format!("entering cgroup {cgroup}: {error}")))
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is not a number"))
}

fn say(line: &str) {
    let mut out = io::stdout().lock();
    // A test that ended does not listen any more.
    let _ = writeln!(out, "{line}").and_then(|()| out.flush());
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| panic!("{text} is not an address"))
}

/// Answers each line (TCP) or datagram (UDP) with its name and who asked.
fn serve(addr: &str, name: &str) -> io::Result<()> {
    let addr = address(addr);
    let (tcp, udp) = (TcpListener::bind(addr)?, UdpSocket::bind(addr)?);
    let owned = name.to_owned();
    std::thread::spawn(move || {
        let mut buffer = [0; 1500];
        while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
            let _ = udp.send_to(format!("{owned} {peer}").as_bytes(), peer);
        }
    });
    say("ready");
    answer_lines(&tcp, name)
}

/// Answers each line of each connection with the name and who asked.
fn answer_lines(listener: &TcpListener, name: &str) -> io::Result<()> {
    for stream in listener.incoming() {
        let (mut stream, name) = (stream?, name.to_owned());
        std::thread::spawn(move || -> io::Result<()> {
            let peer = stream.peer_addr()?;
            let mut lines = BufReader::new(stream.try_clone()?).lines();
            while lines.next().transpose()?.is_some() {
                stream.write_all(format!("{name} {peer}\n").as_bytes())?;
            }
            Ok(())
        });
    }
    Ok(())
}

/// Tells each connection, when it has said all, how many bytes that were, and who it is.
fn sink(addr: &str) -> io::Result<()> {
    let listener = TcpListener::bind(address(addr))?;
    say("ready");
    for stream in listener.incoming() {
        let mut stream = stream?;
        let peer = stream.peer_addr()?;
        let count = io::copy(&mut stream, &mut io::sink())?;
        stream.write_all(format!("{count} of {peer}\n").as_bytes())?;
        // And as many back, so that both ways are taken by large packets.
        io::copy(&mut io::repeat(b'.').take(count), &mut stream)?;
    }
    Ok(())
}

/// Says that many bytes to a [`sink`]: `COUNT of CLIENT, and COUNT back`.
fn pour(addr: &str, bytes: u64) -> io::Result<()> {
    let mut stream = dial(address(addr))?;
    io::copy(&mut io::repeat(b'.').take(bytes), stream.get_mut())?;
    stream.get_mut().shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_line(&mut answer)?;
    let back = io::copy(&mut stream, &mut io::sink())?;
    say(&format!("{}, and {back} back", answer.trim_end()));
    Ok(())
}

fn dial(addr: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let stream = TcpStream::connect_timeout(&addr, TIMEOUT)?;
    stream.set_read_timeout(Some(TIMEOUT))?;
    Ok(BufReader::new(stream))
}

fn exchange(stream: &mut BufReader<TcpStream>) -> io::Result<String> {
    stream.get_mut().write_all(b"?\n")?;
    let mut answer = String::new();
    if stream.read_line(&mut answer)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(answer.trim_end().to_owned())
}

/// `NAME CLIENT as PEER`: the server's answer, and what getpeername says.
fn tcp(addr: &str) -> io::Result<()> {
    let mut stream = dial(address(addr))?;
    let answer = exchange(&mut stream)?;
    say(&format!("{answer} as {}", stream.get_ref().peer_addr()?));
    Ok(())
}

/// Connection after connection; `done COUNT failed COUNT FIRST_ERROR`, and the names that answered.
fn tcp_many(addr: &str, count: u64, pause_ms: u64) -> io::Result<()> {
    let addr = address(addr);
    let mut names: Vec<String> = Vec::new();
    let (mut failed, mut first) = (0, String::new());
    for _ in 0..count {
        match dial(addr).and_then(|mut stream| exchange(&mut stream)) {
            Ok(answer) => {
                let name = answer.split(' ').next().unwrap_or_default().to_owned();
                if !names.contains(&name) {
                    names.push(name);
                }
            }
            Err(error) => {
                failed += 1;
                if first.is_empty() {
                    first = format!("{:?}", error.kind());
                }
            }
        }
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    names.sort();
    say(&format!("done {count} failed {failed} {first} names {}", names.join(",")));
    Ok(())
}

/// One connection; a line of input is one exchange.
fn tcp_long(addr: &str) -> io::Result<()> {
    let mut stream = dial(address(addr))?;
    say("connected");
    for line in io::stdin().lock().lines() {
        line?;
        say(&exchange(&mut stream)?);
    }
    Ok(())
}

/// Does it again and again until its input ends: `done COUNT failed COUNT FIRST_ERROR slowest TIME ms`.
fn until(pause_ms: u64, mut once: impl FnMut() -> io::Result<()>) -> io::Result<()> {
    let ended = Arc::new(AtomicBool::new(false));
    let end = ended.clone();
    std::thread::spawn(move || {
        let _ = io::copy(&mut io::stdin(), &mut io::sink());
        end.store(true, Ordering::Relaxed);
    });
    say("begun");
    let (mut done, mut failed, mut first, mut slowest) = (0, 0, String::new(), Duration::ZERO);
    while !ended.load(Ordering::Relaxed) {
        done += 1;
        let started = Instant::now();
        if let Err(error) = once() {
            failed += 1;
            if first.is_empty() {
                first = format!("{error:?}").replace(' ', "_");
            }
        }
        slowest = slowest.max(started.elapsed());
        std::thread::sleep(Duration::from_millis(pause_ms));
    }
    say(&format!("done {done} failed {failed} {first} slowest {} ms", slowest.as_millis()));
    Ok(())
}

/// A connection with one exchange.
fn short(addr: &str) -> impl FnMut() -> io::Result<()> {
    let addr = address(addr);
    move || dial(addr).and_then(|mut stream| exchange(&mut stream)).map(drop)
}

/// One more exchange on a connection.
fn stream_on(mut stream: BufReader<TcpStream>) -> impl FnMut() -> io::Result<()> {
    move || exchange(&mut stream).map(drop)
}

/// One more exchange of an unconnected socket, whose answer must be of who was asked.
fn udp_on(socket: UdpSocket, addr: SocketAddr) -> impl FnMut() -> io::Result<()> {
    move || {
        let mut buffer = [0; 1500];
        socket.send_to(b"?", addr)?;
        match socket.recv_from(&mut buffer)? {
            (_, from) if from == addr => Ok(()),
            (_, from) => Err(io::Error::other(format!("{addr} was asked and {from} answered"))),
        }
    }
}

/// The same with a socket of its own.
fn short_udp(addr: &str) -> impl FnMut() -> io::Result<()> {
    let addr = address(addr);
    move || socket_for(addr).and_then(|socket| udp_on(socket, addr)())
}

/// A socket of the family of `addr`.
fn socket_for(addr: SocketAddr) -> io::Result<UdpSocket> {
    let any: IpAddr = if addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
    let socket = UdpSocket::bind((any, 0))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

/// Two datagrams of an unconnected socket: `ANSWER from ADDRESS` each.
fn udp(addr: &str) -> io::Result<()> {
    let addr = address(addr);
    let socket = socket_for(addr)?;
    for _ in 0..2 {
        socket.send_to(b"?", addr)?;
        let mut buffer = [0; 1500];
        let (length, from) = socket.recv_from(&mut buffer)?;
        say(&format!("{} from {from}", String::from_utf8_lossy(&buffer[..length])));
    }
    Ok(())
}

/// One exchange from a port of the caller's choice.
fn udp_from(port: u16, addr: &str) -> io::Result<()> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    socket.send_to(b"?", address(addr))?;
    let mut buffer = [0; 1500];
    let (length, _) = socket.recv_from(&mut buffer)?;
    say(&String::from_utf8_lossy(&buffer[..length]));
    Ok(())
}

/// An unconnected socket; a line of input is one exchange.
fn udp_long(addr: &str) -> io::Result<()> {
    let addr = address(addr);
    let socket = socket_for(addr)?;
    for line in io::stdin().lock().lines() {
        line?;
        let mut buffer = [0; 1500];
        match socket.send_to(b"?", addr).and_then(|_| socket.recv_from(&mut buffer)) {
            Ok((length, from)) => say(&format!("{} from {from}", String::from_utf8_lossy(&buffer[..length]))),
            Err(error) => say(&format!("error {:?}", error.kind())),
        }
    }
    Ok(())
}

/// A connected socket; a line of input is one exchange.
fn udp_connected(addr: &str) -> io::Result<()> {
    let addr = address(addr);
    let socket = socket_for(addr)?;
    socket.connect(addr)?;
    say(&format!("connected {}", socket.peer_addr()?));
    for line in io::stdin().lock().lines() {
        line?;
        let mut buffer = [0; 1500];
        match socket.send(b"?").and_then(|_| socket.recv(&mut buffer)) {
            Ok(length) => say(&String::from_utf8_lossy(&buffer[..length])),
            Err(error) => say(&format!("error {:?}", error.kind())),
        }
    }
    Ok(())
}

/// Linux takes an ICMP error that comes while connect() is still in the kernel, as it does between veths, for no more than a
/// hint, and sends the next INIT after three seconds.
const SCTP_TIMEOUT: Duration = Duration::from_secs(15);
/// Bytes of a message: several packets.
const PIECE: usize = 8_192;

/// A one-to-one SCTP socket (RFC 6458, 4), which is used like one of TCP.
fn sctp_socket(addr: SocketAddr) -> io::Result<Socket> {
    Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::SCTP))
}

/// As [`serve`], by SCTP.
fn sctp_serve(addr: &str, name: &str) -> io::Result<()> {
    let addr = address(addr);
    let socket = sctp_socket(addr)?;
    socket.bind(&addr.into())?;
    socket.listen(64)?;
    say("ready");
    answer_lines(&socket.into(), name)
}

/// From the one address that packets there leave with: a socket that is bound to all of them would tell the others, too.
fn sctp_dial(addr: SocketAddr) -> io::Result<BufReader<TcpStream>> {
    let source = socket_for(addr)?;
    source.connect(addr)?;
    let socket = sctp_socket(addr)?;
    socket.bind(&SocketAddr::new(source.local_addr()?.ip(), 0).into())?;
    // Without it an ICMP error is no more than a hint, and the connection is tried for minutes.
    match addr {
        SocketAddr::V4(_) => setsockopt(&socket, sockopt::Ipv4RecvErr, &true)?,
        SocketAddr::V6(_) => setsockopt(&socket, sockopt::Ipv6RecvErr, &true)?,
    }
    socket.connect_timeout(&addr.into(), SCTP_TIMEOUT)?;
    let stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(TIMEOUT))?;
    stream.set_write_timeout(Some(TIMEOUT))?;
    Ok(BufReader::new(stream))
}

/// As [`tcp`]; the first line is as long as is asked for.
fn sctp(addr: &str, bytes: usize) -> io::Result<()> {
    let mut stream = sctp_dial(address(addr))?;
    let line = vec![b'x'; bytes];
    line.chunks(PIECE).try_for_each(|piece| stream.get_mut().write_all(piece))?;
    let answer = exchange(&mut stream)?;
    say(&format!("{answer} as {}", stream.get_ref().peer_addr()?));
    Ok(())
}

/// As [`tcp_long`].
fn sctp_long(addr: &str) -> io::Result<()> {
    let mut stream = sctp_dial(address(addr))?;
    say("connected");
    for line in io::stdin().lock().lines() {
        line?;
        say(&exchange(&mut stream)?);
    }
    Ok(())
}

/// A DNS question in wire form (RFC 1035), with recursion desired.
pub fn question(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut packet = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        packet.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        packet.push(label.len() as u8);
        packet.extend(label.as_bytes());
    }
    packet.push(0);
    packet.extend(kind.to_be_bytes());
    packet.extend(1_u16.to_be_bytes());
    packet
}

/// `rcode R answers N ADDRESS`, then whether the question came back in the very bytes it was asked with.
fn dns(server: &str, name: &str, kind: u16) -> io::Result<()> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    let asked = question(0x1234, name, kind);
    socket.send_to(&asked, address(server))?;
    let mut buffer = [0; 1500];
    let (length, from) = socket.recv_from(&mut buffer)?;
    let reply = &buffer[..length];
    let answers = u16::from_be_bytes([reply[6], reply[7]]);
    let last = if answers > 0 && kind == 1 {
        reply
            .get(asked.len()..)
            .and_then(|rest| rest.get(12..16))
            .map_or_else(String::new, |a| Ipv4Addr::new(a[0], a[1], a[2], a[3]).to_string())
    } else {
        "-".into()
    };
    let same = reply.get(12..asked.len()) == asked.get(12..);
    say(&format!("rcode {} answers {answers} {last} same-question {same} from {from}", reply[3] & 15));
    Ok(())
}

/// Sends one UDP packet with a source address that is not ours.
fn spoof(source: &str, destination: &str) -> io::Result<()> {
    let (SocketAddr::V4(source), SocketAddr::V4(destination)) = (address(source), address(destination)) else {
        panic!("IPv4 addresses only");
    };
    let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw)?;
    let mut packet = vec![0x45, 0, 0, 32, 0, 1, 0, 0, 64, 17, 0, 0];
    packet.extend(source.ip().octets());
    packet.extend(destination.ip().octets());
    packet.extend(source.port().to_be_bytes());
    packet.extend(destination.port().to_be_bytes());
    packet.extend([0, 12, 0, 0, b's', b'p', b'o', b'f']);
    let to = SockaddrIn::from(SocketAddrV4::new(*destination.ip(), 0));
    sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty())?;
    say("sent");
    Ok(())
}
