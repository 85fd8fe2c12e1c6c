//! One attempt of a probe: exec, HTTP(S), TCP or gRPC. Says what happened; counts nothing.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{grpc, http};
use crate::cri::Cri;

/// The outcome: passed, or failed with what to tell.
pub type Attempt = Result<(), String>;

/// A port by number or by its name in the container.
pub fn port(p: &IntOrString, c: &Container) -> Result<u16, String> {
    match p {
        IntOrString::Int(n) => u16::try_from(*n).map_err(|_| format!("invalid port number: {n}")),
        IntOrString::String(name) => {
            if let Ok(n) = name.parse() {
                return Ok(n);
            }
            let found = c.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            found
                .and_then(|p| u16::try_from(p.container_port).ok())
                .ok_or_else(|| format!("couldn't find port: \"{name}\" in container \"{}\"", c.name))
        }
    }
}

/// Runs a probe once. `ip` is the Pod's address, `id` the container's.
pub async fn run(cri: &Cri, probe: &Probe, c: &Container, id: &str, ip: &str) -> Attempt {
    let limit = Duration::from_secs(u64::try_from(probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
    if let Some(exec) = &probe.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match cri.exec_sync(id, command, limit.as_secs() as i64).await {
            Ok(r) if r.exit_code == 0 => Ok(()),
            Ok(r) => {
                let mut text = String::from_utf8_lossy(&r.stdout).into_owned();
                text.push_str(&String::from_utf8_lossy(&r.stderr));
                text.truncate(text.floor_char_boundary(10 * 1024));
                Err(text)
            }
            Err(crate::Error::Cri { code: "DeadlineExceeded", .. }) => {
                Err(format!("command timed out after {}s", limit.as_secs()))
            }
            Err(e) => Err(e.to_string()),
        };
    }
    let attempt = async {
        if let Some(get) = &probe.http_get {
            let port = port(&get.port, c)?;
            let host = get.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
            return http::get(get, host, port).await;
        }
        if let Some(tcp) = &probe.tcp_socket {
            let port = port(&tcp.port, c)?;
            let host = tcp.host.as_deref().filter(|h| !h.is_empty()).unwrap_or(ip);
            return match tokio::net::TcpStream::connect((host, port)).await {
                Ok(_) => Ok(()),
                Err(e) => Err(format!("dial tcp {host}:{port}: {e}")),
            };
        }
        if let Some(g) = &probe.grpc {
            let port = u16::try_from(g.port).map_err(|_| format!("invalid port number: {}", g.port))?;
            return grpc::check(ip, port, g.service.as_deref().unwrap_or_default()).await;
        }
        Err("missing probe handler".to_owned())
    };
    match tokio::time::timeout(limit, attempt).await {
        Ok(outcome) => outcome,
        Err(_) => Err(match (&probe.http_get, &probe.tcp_socket) {
            (Some(_), _) => "context deadline exceeded (Client.Timeout exceeded while awaiting headers)".into(),
            (_, Some(_)) => "i/o timeout".into(),
            _ => format!("timeout: failed to connect service within {limit:?}"),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_ports() {
        let c: Container = serde_json::from_value(serde_json::json!(
            {"name": "a", "ports": [{"name": "web", "containerPort": 8080}]}))
        .unwrap();
        assert_eq!(port(&IntOrString::String("web".into()), &c), Ok(8080));
        assert_eq!(port(&IntOrString::Int(1), &c), Ok(1));
        assert!(port(&IntOrString::String("x".into()), &c).unwrap_err().contains("couldn't find port"));
    }
}
