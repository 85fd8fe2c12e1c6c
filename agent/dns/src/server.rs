//! The sockets: UDP and TCP on each address, bounded in what they hold for others.

use crate::{
    Config, Error,
    message::{Received, Request, Sections, Transport, receive},
    reverse::Reverse,
    upstream::{Outcome, Upstream},
    zone::{Answer, Zone},
};
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, RecordType},
};
use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use strake_state::World;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket},
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Questions waiting for upstream; more are answered SERVFAIL at once.
const MAX_WAITING: usize = 1024;
/// Open TCP connections; more wait to be accepted.
const MAX_CONNECTIONS: usize = 256;
/// A TCP connection without a question, or one that does not take its answer, is closed (RFC 7766, 6.2.3).
const TCP_IDLE: Duration = Duration::from_secs(10);
/// How many names an alias may lead through.
const MAX_ALIASES: usize = 8;

/// A bound server.
pub struct Server {
    udp: Vec<UdpSocket>,
    tcp: Vec<TcpListener>,
    zone: Zone,
    upstream: Upstream,
}

/// What all questions share.
struct Shared {
    zone: Zone,
    upstream: Upstream,
    reverse: Reverse,
    world: watch::Receiver<Arc<World>>,
    waiting: Arc<Semaphore>,
    connections: Arc<Semaphore>,
    rotation: AtomicUsize,
}

impl Server {
    pub async fn bind(config: Config) -> Result<Self, Error> {
        let zone = Zone::new(&config.cluster_domain, config.ttl, config.dns_service)?;
        let (mut udp, mut tcp) = (Vec::new(), Vec::new());
        for address in &config.listen {
            let fail = |protocol, address| move |source| Error::Bind { protocol, address, source };
            let socket = UdpSocket::bind(address).await.map_err(fail("UDP", *address))?;
            // Port 0 is for tests: both transports on the port that was given.
            let address = socket.local_addr().map_err(fail("UDP", *address))?;
            tcp.push(TcpListener::bind(address).await.map_err(fail("TCP", address))?);
            udp.push(socket);
        }
        let upstream = Upstream::new(config.upstream, config.cache_records, &config.listen);
        Ok(Self { udp, tcp, zone, upstream })
    }

    /// The addresses, with the ports that were given for 0.
    pub fn local_addrs(&self) -> Vec<SocketAddr> {
        self.udp.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }

    /// Serves until cancelled.
    pub async fn run(self, world: watch::Receiver<Arc<World>>, cancel: CancellationToken) {
        let shared = Arc::new(Shared {
            zone: self.zone,
            upstream: self.upstream,
            reverse: Reverse::default(),
            world,
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
            connections: Arc::new(Semaphore::new(MAX_CONNECTIONS)),
            rotation: AtomicUsize::new(0),
        });
        let mut tasks = JoinSet::new();
        for socket in self.udp {
            tasks.spawn(serve_udp(Arc::new(socket), shared.clone()));
        }
        for listener in self.tcp {
            tasks.spawn(serve_tcp(listener, shared.clone()));
        }
        cancel.cancelled().await;
        tasks.shutdown().await;
    }
}

/// An error that another try may not see: wait a little rather than spin.
async fn pause(what: &str, error: &io::Error) {
    tracing::debug!(%error, "cluster DNS: {what}");
    tokio::time::sleep(Duration::from_millis(50)).await;
}

async fn serve_udp(socket: Arc<UdpSocket>, shared: Arc<Shared>) {
    let mut buffer = vec![0; 4096];
    // Dropped, and with it what it waits for, when the server ends.
    let mut waiting = JoinSet::new();
    loop {
        let (length, peer) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            Err(error) => {
                pause("receiving", &error).await;
                continue;
            }
        };
        while waiting.try_join_next().is_some() {}
        let request = match receive(&buffer[..length], Transport::Udp) {
            Received::Question(request) => request,
            Received::Reply(reply) => {
                send(&socket, &reply, peer).await;
                continue;
            }
            Received::Ignore => continue,
        };
        match shared.local(&request) {
            Local::Reply(reply) => send(&socket, &reply, peer).await,
            Local::Ask(ask) => {
                let Ok(permit) = shared.waiting.clone().try_acquire_owned() else {
                    let reply = request.reply(ResponseCode::ServFail, false, Sections::default());
                    send(&socket, &reply, peer).await;
                    continue;
                };
                let (socket, shared) = (socket.clone(), shared.clone());
                waiting.spawn(async move {
                    let reply = shared.ask(&request, ask).await;
                    drop(permit);
                    send(&socket, &reply, peer).await;
                });
            }
        }
    }
}

async fn send(socket: &UdpSocket, reply: &[u8], peer: SocketAddr) {
    if let Err(error) = socket.send_to(reply, peer).await {
        tracing::debug!(%error, %peer, "an answer could not be sent");
    }
}

async fn serve_tcp(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = shared.connections.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = shared.clone();
                connections.spawn(async move {
                    // However it ends, it is the client's loss only.
                    let _ = serve_connection(stream, &shared).await;
                    drop(permit);
                });
            }
            Err(error) => pause("accepting", &error).await,
        }
        while connections.try_join_next().is_some() {}
    }
}

/// Questions of one connection, one after the other (RFC 7766): a length of two bytes, then the message.
async fn serve_connection(mut stream: TcpStream, shared: &Shared) -> io::Result<()> {
    let timeout = |_| io::Error::from(io::ErrorKind::TimedOut);
    loop {
        let message = tokio::time::timeout(TCP_IDLE, async {
            let length = stream.read_u16().await?;
            let mut message = vec![0; length.into()];
            stream.read_exact(&mut message).await?;
            io::Result::Ok(message)
        });
        let message = message.await.map_err(timeout)??;
        let reply = match receive(&message, Transport::Tcp) {
            Received::Question(request) => match shared.local(&request) {
                Local::Reply(reply) => reply,
                Local::Ask(ask) => match shared.waiting.try_acquire() {
                    Ok(_permit) => shared.ask(&request, ask).await,
                    Err(_) => request.reply(ResponseCode::ServFail, false, Sections::default()),
                },
            },
            Received::Reply(reply) => reply,
            Received::Ignore => return Ok(()),
        };
        let length = u16::try_from(reply.len()).map_err(io::Error::other)?;
        let framed = [&length.to_be_bytes()[..], &reply].concat();
        tokio::time::timeout(TCP_IDLE, stream.write_all(&framed)).await.map_err(timeout)??;
    }
}

/// What can be said without waiting.
enum Local {
    Reply(Vec<u8>),
    Ask(Ask),
}

/// What upstream is asked, and the aliases that led there.
struct Ask {
    name: Name,
    aliases: Sections,
}

impl Shared {
    fn local(&self, request: &Request) -> Local {
        let world = self.world.borrow().clone();
        let kind = request.question.query_type();
        let mut name = request.question.name().clone();
        let mut sections = Sections::default();
        let reply = |code, sections| Local::Reply(request.reply(code, true, sections));
        let absent = |code, mut sections: Sections| {
            sections.authorities.push(self.zone.soa(&world));
            reply(code, sections)
        };
        for _ in 0..=MAX_ALIASES {
            match self.zone.answer(&world, &self.reverse, &name, kind) {
                Answer::Found { mut answers, additionals } => {
                    self.rotate(&mut answers);
                    sections.answers.extend(answers);
                    sections.additionals = additionals;
                    return reply(ResponseCode::NoError, sections);
                }
                Answer::Alias { cname, target } => {
                    sections.answers.push(*cname);
                    name = target;
                }
                Answer::NoData => return absent(ResponseCode::NoError, sections),
                Answer::NxDomain => return absent(ResponseCode::NXDomain, sections),
                Answer::Unavailable => {
                    return Local::Reply(request.reply(ResponseCode::ServFail, false, Sections::default()));
                }
                Answer::NotOurs => return Local::Ask(Ask { name, aliases: sections }),
            }
        }
        // Aliases in a circle.
        reply(ResponseCode::ServFail, Sections::default())
    }

    /// Clients that take the first address spread over all.
    fn rotate(&self, answers: &mut [hickory_proto::rr::Record]) {
        if answers.len() > 1 {
            let by = self.rotation.fetch_add(1, Relaxed) % answers.len();
            answers.rotate_left(by);
        }
    }

    async fn ask(&self, request: &Request, ask: Ask) -> Vec<u8> {
        let kind: RecordType = request.question.query_type();
        let mut sections = ask.aliases;
        let aliased = !sections.answers.is_empty();
        match self.upstream.resolve(&ask.name, kind).await {
            Outcome::Answers(mut answers) => {
                // The cache may remember another spelling of the name.
                for record in answers.iter_mut().filter(|record| record.name == ask.name) {
                    record.name = ask.name.clone();
                }
                sections.answers.extend(answers);
                request.reply(ResponseCode::NoError, false, sections)
            }
            Outcome::Negative { code, authorities } => {
                sections.authorities = authorities;
                request.reply(code, false, sections)
            }
            // The alias is known even if where it leads is not.
            Outcome::Failed if aliased => request.reply(ResponseCode::ServFail, false, sections),
            Outcome::Failed => request.reply(ResponseCode::ServFail, false, Sections::default()),
        }
    }
}
