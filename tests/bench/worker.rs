//! The processes that are measured: each on a CPU of its own, told by lines what to do.

use std::io::{self, BufRead, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::{Duration, Instant};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use socket2::{Domain, Protocol, Socket, Type};
use strake_tests::net_helper;

/// A connection or question that takes longer has failed.
const TIMEOUT: Duration = Duration::from_secs(1);

pub fn main(arguments: &[String]) -> i32 {
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        [cgroup, "bench-server", addr, cpu] => prepare(cgroup, cpu).and_then(|()| server(addr)),
        [cgroup, "bench-client", cpu] => prepare(cgroup, cpu).and_then(|()| client()),
        [cgroup, "bench-dns", cpu] => prepare(cgroup, cpu).and_then(|()| questions()),
        ["api-listen" | "api-probe", ..] => crate::api::helper_main(&words),
        _ => return net_helper::main(arguments),
    };
    match result {
        Ok(()) => 0,
        Err(error) => {
            eprintln!("{words:?}: {error}");
            1
        }
    }
}

fn prepare(cgroup: &str, cpu: &str) -> io::Result<()> {
    net_helper::enter_cgroup(cgroup)?;
    let cpu: usize = cpu.parse().map_err(io::Error::other)?;
    let count = std::thread::available_parallelism()?.get();
    let mut set = CpuSet::new();
    set.set(cpu % count)?;
    sched_setaffinity(Pid::from_raw(0), &set)?;
    Ok(())
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}")?;
    out.flush()
}

/// Bytes of one step of a stream.
const CHUNK: usize = 4 << 20;

/// Serves one connection after the other. Its first byte says how: `?` is echoed and the connection closed, so that the
/// server is who waits out its end; with `r` every byte is echoed; with `s` every [`CHUNK`] is acknowledged.
fn server(addr: &str) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    say("ready")?;
    for stream in listener.incoming() {
        // A client that gave up is its own business.
        let _ = serve(stream?);
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut byte = [0];
    stream.read_exact(&mut byte)?;
    match byte[0] {
        b'r' => {
            stream.set_nodelay(true)?;
            loop {
                stream.write_all(&byte)?;
                stream.read_exact(&mut byte)?;
            }
        }
        b's' => {
            let mut buffer = vec![0; 256 << 10];
            let mut missing = CHUNK;
            loop {
                let length = missing.min(buffer.len());
                let read = stream.read(&mut buffer[..length])?;
                if read == 0 {
                    return Ok(());
                }
                missing -= read;
                if missing == 0 {
                    stream.write_all(&byte)?;
                    missing = CHUNK;
                }
            }
        }
        _ => stream.write_all(&byte),
    }
}

/// For each line `ADDRESS COUNT MEASURE`: as many samples, one after the other; answers with the nanoseconds of the good
/// ones, then `failed N`.
fn client() -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let bad = || io::Error::other(format!("no order: {line}"));
        let words: Vec<&str> = line.split(' ').collect();
        let [address, count, measure, ..] = words[..] else { return Err(bad()) };
        let address: SocketAddr = address.parse().map_err(io::Error::other)?;
        let count = count.parse().map_err(io::Error::other)?;
        let times = match measure {
            "crr" => times(count, |_| whole(address)),
            "connect" => times(count, |_| first(address)),
            "rr" => round_trips(address, count),
            "stream" => chunks(address, count),
            "mix" => {
                let other = words.get(3).ok_or_else(bad)?.parse().map_err(io::Error::other)?;
                times(count, |number| whole(if number % 2 == 0 { address } else { other }))
            }
            _ => return Err(bad()),
        };
        answer(&times, count)?;
    }
    Ok(())
}

fn times(count: usize, sample: impl Fn(usize) -> io::Result<Duration>) -> Vec<u64> {
    let good = |took: Duration| (took < TIMEOUT).then_some(took.as_nanos() as u64);
    (0..count).filter_map(|number| sample(number).ok().and_then(good)).collect()
}

/// From connect() to the end that the server makes.
fn whole(address: SocketAddr) -> io::Result<Duration> {
    let socket = socket()?;
    let started = Instant::now();
    finish(socket, address)?;
    Ok(started.elapsed())
}

/// connect() alone.
fn first(address: SocketAddr) -> io::Result<Duration> {
    let socket = socket()?;
    let started = Instant::now();
    socket.connect(&address.into())?;
    let took = started.elapsed();
    exchange(&socket, b"?")?;
    Ok(took)
}

fn socket() -> io::Result<Socket> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_write_timeout(Some(TIMEOUT))?;
    socket.set_read_timeout(Some(TIMEOUT))?;
    Ok(socket)
}

fn finish(socket: Socket, address: SocketAddr) -> io::Result<()> {
    socket.connect(&address.into())?;
    exchange(&socket, b"?")?;
    if socket.recv(&mut [MaybeUninit::uninit()])? != 0 {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

/// Sends something and waits for one byte.
fn exchange(mut socket: &Socket, what: &[u8]) -> io::Result<()> {
    socket.write_all(what)?;
    match socket.recv(&mut [MaybeUninit::uninit()])? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(()),
    }
}

/// An open connection; None when there is none to be had.
fn open(address: SocketAddr) -> Option<Socket> {
    let socket = socket().ok()?;
    socket.set_tcp_nodelay(true).ok()?;
    socket.connect(&address.into()).ok()?;
    Some(socket)
}

fn timed(socket: &Socket, what: &[u8]) -> io::Result<Duration> {
    let started = Instant::now();
    exchange(socket, what)?;
    Ok(started.elapsed())
}

fn round_trips(address: SocketAddr, count: usize) -> Vec<u64> {
    let Some(socket) = open(address) else { return Vec::new() };
    times(count, |_| timed(&socket, b"r"))
}

fn chunks(address: SocketAddr, count: usize) -> Vec<u64> {
    let Some(socket) = open(address) else { return Vec::new() };
    let chunk = vec![0; CHUNK];
    // It says what the connection is for, and is no part of a chunk.
    if (&socket).write_all(b"s").is_err() {
        return Vec::new();
    }
    times(count, |_| timed(&socket, &chunk))
}

/// For each line `SERVER COUNT NAME`: as many questions for the A record, one after the other.
fn questions() -> io::Result<()> {
    let stdin = io::stdin().lock();
    for line in stdin.lines() {
        let line = line?;
        let mut words = line.split(' ');
        let (Some(server), Some(count), Some(name)) = (words.next(), words.next(), words.next()) else {
            return Err(io::Error::other(format!("no order: {line}")));
        };
        let server: SocketAddr = server.parse().map_err(io::Error::other)?;
        let count: usize = count.parse().map_err(io::Error::other)?;
        let socket = UdpSocket::bind("0.0.0.0:0")?;
        socket.connect(server)?;
        socket.set_read_timeout(Some(TIMEOUT))?;
        let mut packet = net_helper::question(0, name, 1);
        let mut times = Vec::with_capacity(count);
        let mut buffer = [0; 512];
        for id in 0..count {
            let id = (id as u16).to_be_bytes();
            packet[..2].copy_from_slice(&id);
            let started = Instant::now();
            let answered = socket.send(&packet).and_then(|_| socket.recv(&mut buffer));
            let took = started.elapsed();
            // NOERROR, one answer or more, and to this question.
            if answered.is_ok_and(|length| length > 12) && buffer[..2] == id && buffer[3] & 15 == 0 && buffer[7] > 0 {
                times.push(took.as_nanos() as u64);
            }
        }
        answer(&times, count)?;
    }
    Ok(())
}

fn answer(times: &[u64], count: usize) -> io::Result<()> {
    let times: Vec<String> = times.iter().map(u64::to_string).collect();
    say(&format!("{} failed {}", times.join(" "), count - times.len()))
}
