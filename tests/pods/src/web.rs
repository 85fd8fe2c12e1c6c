//! The servers: HTTP/1.0-style over TCP (one request a connection) and a UDP echo, each naming the Pod it runs in.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream, UdpSocket};
use std::time::Duration;

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").map_or_else(|_| "unknown".into(), |s| s.trim().to_owned())
}

/// On `any`, the unspecified address: that of IPv6 takes connections of both families.
pub fn serve(any: &str, port: u16) -> Result<(), String> {
    let listener = TcpListener::bind((any, port)).map_err(|e| format!("listening on port {port}: {e}"))?;
    println!("{} listens on {port}", hostname());
    for connection in listener.incoming() {
        match connection {
            Ok(connection) => {
                std::thread::spawn(move || answer(&connection));
            }
            // A client that left before it was accepted is its own affair; anything else shows in the log.
            Err(error) => eprintln!("accept: {error}"),
        }
    }
    Ok(())
}

fn answer(mut connection: &TcpStream) {
    let mut line = String::new();
    let mut reader = BufReader::new(connection);
    if reader.read_line(&mut line).is_err() || line.is_empty() {
        return;
    }
    let mut header = String::new();
    while reader.read_line(&mut header).is_ok_and(|n| n > 2) {
        header.clear();
    }
    let path = line.split(' ').nth(1).unwrap_or("/");
    let name = hostname();
    if path == "/stream" {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nConnection: close\r\n\r\n";
        let mut sent = connection.write_all(head.as_bytes());
        let mut n = 0_u64;
        while sent.is_ok() {
            sent = connection.write_all(format!("{name} {n}\n").as_bytes());
            n += 1;
            std::thread::sleep(Duration::from_millis(20));
        }
        return;
    }
    let peer = connection.peer_addr().map_or_else(|e| e.to_string(), |a| a.ip().to_canonical().to_string());
    let (status, body) = match path {
        "/" | "/hostname" => ("200 OK", format!("{name}\n")),
        "/client-ip" => ("200 OK", format!("{peer}\n")),
        "/healthz" => ("200 OK", "ok\n".to_owned()),
        _ => ("404 Not Found", format!("{path} is not here\n")),
    };
    let len = body.len();
    let text = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {len}\r\nConnection: close\r\n\r\n{body}"
    );
    // The client may be gone; nobody is left to tell.
    let _ = connection.write_all(text.as_bytes());
}

pub fn serve_udp(any: &str, port: u16) -> Result<(), String> {
    let socket = UdpSocket::bind((any, port)).map_err(|e| format!("listening on UDP port {port}: {e}"))?;
    println!("{} listens on UDP {port}", hostname());
    let mut buf = [0; 2048];
    loop {
        match socket.recv_from(&mut buf) {
            Ok((n, from)) => {
                let mut reply = format!("{} ", hostname()).into_bytes();
                reply.extend_from_slice(&buf[..n]);
                if let Err(error) = socket.send_to(&reply, from) {
                    eprintln!("answering {from}: {error}");
                }
            }
            Err(error) => eprintln!("receive: {error}"),
        }
    }
}
