//! The processes that are measured: each on a CPU of its own, told by lines what to do.

use std::io::{self, BufRead, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpListener, UdpSocket};
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

/// One byte in, one byte out, close.
fn server(addr: &str) -> io::Result<()> {
    let listener = TcpListener::bind(addr)?;
    say("ready")?;
    let mut byte = [0];
    for stream in listener.incoming() {
        let mut stream = stream?;
        // A client that gave up is its own business.
        if stream.read_exact(&mut byte).is_ok() {
            let _ = stream.write_all(&byte);
        }
    }
    Ok(())
}

/// For each line `ADDRESS COUNT`: as many connections one after the other, each timed from connect() to close();
/// answers with the nanoseconds of the good ones, then `failed N`.
fn client() -> io::Result<()> {
    orders(|addr, count| {
        let mut times = Vec::with_capacity(count);
        for _ in 0..count {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
            socket.set_write_timeout(Some(TIMEOUT))?;
            socket.set_read_timeout(Some(TIMEOUT))?;
            let started = Instant::now();
            if connection(socket, addr).is_ok() && started.elapsed() < TIMEOUT {
                times.push(started.elapsed().as_nanos() as u64);
            }
        }
        Ok(times)
    })
}

fn connection(mut socket: Socket, addr: SocketAddr) -> io::Result<()> {
    socket.connect(&addr.into())?;
    socket.write_all(b"?")?;
    let mut byte = [MaybeUninit::uninit()];
    if socket.recv(&mut byte)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    drop(socket);
    Ok(())
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

fn orders(mut work: impl FnMut(SocketAddr, usize) -> io::Result<Vec<u64>>) -> io::Result<()> {
    for line in io::stdin().lock().lines() {
        let line = line?;
        let order = line.split_once(' ').and_then(|(addr, count)| Some((addr.parse().ok()?, count.parse().ok()?)));
        let (addr, count) = order.ok_or_else(|| io::Error::other(format!("no order: {line}")))?;
        answer(&work(addr, count)?, count)?;
    }
    Ok(())
}

fn answer(times: &[u64], count: usize) -> io::Result<()> {
    let times: Vec<String> = times.iter().map(u64::to_string).collect();
    say(&format!("{} failed {}", times.join(" "), count - times.len()))
}
