//! The files of configMap, secret, downwardAPI and projected volumes.

use std::collections::BTreeMap;

use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{ConfigMap, DownwardAPIVolumeFile, KeyToPath, Pod, Secret, Volume};

use super::Context;
use super::atomic::{File, Payload};
use crate::downward;
use crate::error::{Error, Result};
use crate::pod;

const DEFAULT_MODE: u32 = 0o644;

fn mode(specific: Option<i32>, default: u32) -> u32 {
    specific.and_then(|m| u32::try_from(m).ok()).unwrap_or(default) & 0o777
}

/// Fetches and renders the files of a volume.
pub async fn collect(ctx: &mut Context<'_>, p: &Pod, v: &Volume) -> Result<Payload> {
    let mut out = Payload::new();
    if let Some(s) = &v.config_map {
        let m = mode(s.default_mode, DEFAULT_MODE);
        config_map(ctx, p, &s.name, s.optional == Some(true), s.items.as_deref(), m, &mut out).await?;
    }
    if let Some(s) = &v.secret {
        let name = s.secret_name.as_deref().unwrap_or_default();
        let m = mode(s.default_mode, DEFAULT_MODE);
        secret(ctx, p, name, s.optional == Some(true), s.items.as_deref(), m, &mut out).await?;
    }
    if let Some(s) = &v.downward_api {
        downward_files(ctx, p, s.items.as_deref(), mode(s.default_mode, DEFAULT_MODE), &mut out)?;
    }
    if let Some(s) = &v.projected {
        let m = mode(s.default_mode, DEFAULT_MODE);
        for source in s.sources.iter().flatten() {
            if let Some(c) = &source.config_map {
                config_map(ctx, p, &c.name, c.optional == Some(true), c.items.as_deref(), m, &mut out).await?;
            } else if let Some(c) = &source.secret {
                secret(ctx, p, &c.name, c.optional == Some(true), c.items.as_deref(), m, &mut out).await?;
            } else if let Some(d) = &source.downward_api {
                downward_files(ctx, p, d.items.as_deref(), m, &mut out)?;
            } else if let Some(t) = &source.service_account_token {
                let token = ctx.tokens.get(p, t).await?;
                // Owned by the one user all containers run as, readable only by it; else by all (stock).
                let owner = single_user(p);
                let private = owner.is_some() || fs_group(p);
                let file_mode = if private { 0o600 } else { m };
                insert(&mut out, &t.path, File { data: token.into_bytes(), mode: file_mode, owner })?;
            } else {
                return Err(Error::Pod("a projected source of this kind is not supported".into()));
            }
        }
    }
    Ok(out)
}

fn fs_group(p: &Pod) -> bool {
    p.spec.as_ref().and_then(|s| s.security_context.as_ref()).is_some_and(|s| s.fs_group.is_some())
}

fn single_user(p: &Pod) -> Option<u32> {
    let default = p.spec.as_ref().and_then(|s| s.security_context.as_ref()).and_then(|s| s.run_as_user);
    let mut users = pod::containers(p).iter().chain(pod::init_containers(p)).map(|c| {
        c.security_context.as_ref().and_then(|s| s.run_as_user).or(default).and_then(|u| u32::try_from(u).ok())
    });
    let first = users.next()??;
    users.all(|u| u == Some(first)).then_some(first)
}

fn insert(out: &mut Payload, path: &str, file: File) -> Result<()> {
    let relative = super::atomic::checked(path)?;
    out.insert(relative, file);
    Ok(())
}

fn pick(
    what: &str,
    data: &BTreeMap<String, Vec<u8>>,
    items: Option<&[KeyToPath]>,
    optional: bool,
    default_mode: u32,
    out: &mut Payload,
) -> Result<()> {
    match items.filter(|i| !i.is_empty()) {
        None => {
            for (key, bytes) in data {
                insert(out, key, File { data: bytes.clone(), mode: default_mode, owner: None })?;
            }
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(bytes) => {
                        let file = File { data: bytes.clone(), mode: mode(item.mode, default_mode), owner: None };
                        insert(out, &item.path, file)?;
                    }
                    None if optional => {}
                    None => return Err(Error::Pod(format!("{what} references non-existent key: {}", item.key))),
                }
            }
        }
    }
    Ok(())
}

async fn config_map(
    ctx: &mut Context<'_>,
    p: &Pod,
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: u32,
    out: &mut Payload,
) -> Result<()> {
    let Some(m) = ctx.config_maps.get(pod::namespace(p), name, ctx.user).await? else {
        return if optional { Ok(()) } else { Err(Error::Pod(format!("configmap \"{name}\" not found"))) };
    };
    pick("configmap", &config_map_data(&m), items, optional, mode, out)
}

fn config_map_data(m: &ConfigMap) -> BTreeMap<String, Vec<u8>> {
    let text = m.data.iter().flatten().map(|(k, v)| (k.clone(), v.clone().into_bytes()));
    text.chain(bytes(m.binary_data.as_ref())).collect()
}

fn bytes(data: Option<&BTreeMap<String, ByteString>>) -> impl Iterator<Item = (String, Vec<u8>)> + '_ {
    data.into_iter().flatten().map(|(k, v)| (k.clone(), v.0.clone()))
}

async fn secret(
    ctx: &mut Context<'_>,
    p: &Pod,
    name: &str,
    optional: bool,
    items: Option<&[KeyToPath]>,
    mode: u32,
    out: &mut Payload,
) -> Result<()> {
    let found: Option<std::sync::Arc<Secret>> = ctx.secrets.get(pod::namespace(p), name, ctx.user).await?;
    let Some(s) = found else {
        return if optional { Ok(()) } else { Err(Error::Pod(format!("secret \"{name}\" not found"))) };
    };
    pick("secret", &bytes(s.data.as_ref()).collect(), items, optional, mode, out)
}

fn downward_files(
    ctx: &Context<'_>,
    p: &Pod,
    items: Option<&[DownwardAPIVolumeFile]>,
    default_mode: u32,
    out: &mut Payload,
) -> Result<()> {
    for item in items.into_iter().flatten() {
        let value = if let Some(f) = &item.field_ref {
            downward::field(p, &f.field_path, ctx.facts).map_err(Error::Pod)?
        } else if let Some(r) = &item.resource_field_ref {
            let name = r.container_name.as_deref().unwrap_or_default();
            let c = pod::container(p, name).ok_or_else(|| Error::Pod(format!("container {name} not found")))?;
            downward::resource(&c, r, ctx.facts).map_err(Error::Pod)?
        } else {
            return Err(Error::Pod(format!("downwardAPI file {} has no source", item.path)));
        };
        insert(out, &item.path, File { data: value.into_bytes(), mode: mode(item.mode, default_mode), owner: None })?;
    }
    Ok(())
}
