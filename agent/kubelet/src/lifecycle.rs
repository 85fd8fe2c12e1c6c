//! postStart and preStop hooks.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, LifecycleHandler};

use crate::cri::Cri;
use crate::probe;

/// Time an HTTP hook has.
const HTTP: Duration = Duration::from_secs(30);

/// Runs a hook; the error is what the event tells.
pub async fn run(cri: &Cri, hook: &LifecycleHandler, c: &Container, id: &str, ip: Option<&str>) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        let shown = command.join(" ");
        return match cri.exec_sync(id, command, 0).await {
            Ok(r) if r.exit_code == 0 => Ok(()),
            Ok(r) => {
                let mut text = String::from_utf8_lossy(&r.stderr).into_owned();
                text.truncate(text.floor_char_boundary(1024));
                Err(format!("command '{shown}' exited with {}: {text}", r.exit_code))
            }
            Err(e) => Err(format!("command '{shown}': {e}")),
        };
    }
    if let Some(get) = &hook.http_get {
        let port = probe::port(&get.port, c)?;
        let host = get.host.as_deref().filter(|h| !h.is_empty()).or(ip).ok_or("the pod has no address")?;
        return match tokio::time::timeout(HTTP, probe::http::get(get, host, port)).await {
            Ok(outcome) => outcome,
            Err(_) => Err(format!("no answer within {HTTP:?}")),
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    Err("invalid handler: a hook is exec, httpGet or sleep".to_owned())
}
