//! Names outside the cluster: the node's upstream servers, behind a bounded cache of answers and of absences.

use crate::UpstreamConfig;
use hickory_proto::{
    op::ResponseCode,
    rr::{Name, Record, RecordType},
};
use hickory_resolver::{
    Resolver, TokioResolver,
    config::{NameServerConfig, ResolveHosts, ResolverConfig, ResolverOpts},
    net::{DnsError, NetError, runtime::TokioRuntimeProvider},
    system_conf::parse_resolv_conf,
};
use parking_lot::Mutex;
use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

/// For one try at one server; there are two.
const TRY: Duration = Duration::from_secs(2);
/// For everything: less than the 5 s after which a client gives up.
const PATIENCE: Duration = Duration::from_millis(4500);
/// How often, at most, a question looks whether resolv.conf changed.
const LOOK_AGAIN: Duration = Duration::from_secs(5);
const NEGATIVE_TTL: Duration = Duration::from_secs(30);
const POSITIVE_TTL: Duration = Duration::from_secs(3600);

/// What upstream says.
#[derive(Clone, Debug)]
pub(crate) enum Outcome {
    Answers(Vec<Record>),
    /// NXDOMAIN or no records, with the SOA if there was one.
    Negative {
        code: ResponseCode,
        authorities: Vec<Record>,
    },
    /// No server is configured, reachable, or willing.
    Failed,
}

#[derive(Default)]
struct State {
    looked: Option<Instant>,
    /// Modification time and size of the resolv.conf that is in use.
    stamp: Option<(SystemTime, u64)>,
    resolver: Option<Arc<TokioResolver>>,
}

pub(crate) struct Upstream {
    config: UpstreamConfig,
    cache_records: u64,
    /// Our own addresses: asking ourselves would go round in circles.
    own: HashSet<IpAddr>,
    state: Mutex<State>,
}

impl Upstream {
    pub fn new(config: UpstreamConfig, cache_records: u64, listen: &[SocketAddr]) -> Self {
        let own = listen.iter().map(SocketAddr::ip).collect();
        Self { config, cache_records, own, state: Mutex::default() }
    }

    pub async fn resolve(&self, name: &Name, kind: RecordType) -> Outcome {
        let Some(resolver) = self.resolver() else { return Outcome::Failed };
        let mut name = name.clone();
        name.set_fqdn(true);
        match tokio::time::timeout(PATIENCE, resolver.lookup(name, kind)).await {
            Ok(Ok(lookup)) => Outcome::Answers(lookup.answers().to_vec()),
            Ok(Err(NetError::Dns(DnsError::NoRecordsFound(none)))) => match none.response_code {
                code @ (ResponseCode::NXDomain | ResponseCode::NoError) => {
                    let soa = none.soa.map(|soa| (*soa).into_record_of_rdata());
                    Outcome::Negative { code, authorities: soa.into_iter().collect() }
                }
                _ => Outcome::Failed,
            },
            Ok(Err(error)) => {
                tracing::debug!(%error, "upstream did not answer");
                Outcome::Failed
            }
            Err(_) => Outcome::Failed,
        }
    }

    fn resolver(&self) -> Option<Arc<TokioResolver>> {
        let mut state = self.state.lock();
        match &self.config {
            UpstreamConfig::Servers(servers) => {
                if state.resolver.is_none() {
                    let servers = servers.iter().map(server).collect();
                    state.resolver = self.build(ResolverConfig::from_parts(None, vec![], servers));
                }
            }
            UpstreamConfig::ResolvConf(path) => {
                if state.looked.is_none_or(|at| at.elapsed() > LOOK_AGAIN) {
                    state.looked = Some(Instant::now());
                    let stamp = std::fs::metadata(path).ok().and_then(|m| Some((m.modified().ok()?, m.len())));
                    if stamp.is_none() || stamp != state.stamp {
                        state.resolver = self.read(path);
                        state.stamp = stamp;
                    }
                }
            }
        }
        state.resolver.clone()
    }

    fn read(&self, path: &Path) -> Option<Arc<TokioResolver>> {
        let parsed = std::fs::read(path).map_err(NetError::from).and_then(parse_resolv_conf);
        let servers = match parsed {
            Ok((config, _)) => config.name_servers().to_vec(),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "no upstream name servers: only cluster names resolve");
                return None;
            }
        };
        let servers: Vec<_> = servers.into_iter().filter(|server| !self.own.contains(&server.ip)).collect();
        if servers.is_empty() {
            tracing::warn!(path = %path.display(), "its only name server is this one: only cluster names resolve");
            return None;
        }
        self.build(ResolverConfig::from_parts(None, vec![], servers))
    }

    fn build(&self, config: ResolverConfig) -> Option<Arc<TokioResolver>> {
        let mut options = ResolverOpts::default();
        options.timeout = TRY;
        options.attempts = 1;
        options.cache_size = self.cache_records;
        options.use_hosts_file = ResolveHosts::Never;
        options.preserve_intermediates = true;
        options.edns0 = true;
        options.negative_max_ttl = Some(NEGATIVE_TTL);
        options.positive_max_ttl = Some(POSITIVE_TTL);
        let builder = Resolver::builder_with_config(config, TokioRuntimeProvider::default()).with_options(options);
        match builder.build() {
            Ok(resolver) => Some(Arc::new(resolver)),
            Err(error) => {
                tracing::warn!(%error, "the upstream resolver cannot be set up: only cluster names resolve");
                None
            }
        }
    }
}

fn server(address: &SocketAddr) -> NameServerConfig {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    server
}
