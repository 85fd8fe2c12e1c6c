//! The record of a Pod's interface: written by the CNI plugin, read by the agent after a restart.
//!
//! One JSON file a container under `<node dir>/cni/endpoints/`, replaced atomically. The file is written before the
//! agent is told, so an agent that dies in between finds the endpoint when it comes back.

use std::fs;
use std::io::ErrorKind;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::Error;

/// A Pod's interface as plumbed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Index of the host side of the veth in the node's network namespace.
    pub ifindex: u32,
    pub interface: String,
    pub ip: Ipv4Addr,
    /// Where the node has an IPv6 Pod CIDR. Records of before that have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip6: Option<Ipv6Addr>,
    /// The Pod side's hardware address.
    pub mac: [u8; 6],
    /// The host side's hardware address.
    pub host_mac: [u8; 6],
    /// Path of the Pod's network namespace.
    pub netns: String,
    pub namespace: String,
    pub pod: String,
    pub pod_uid: String,
    pub container_id: String,
}

impl Endpoint {
    /// The message the agent is told this in.
    pub fn to_api(&self) -> strake_agent_api::v1::Endpoint {
        strake_agent_api::v1::Endpoint {
            ifindex: self.ifindex,
            interface: self.interface.clone(),
            ip: self.ip.to_string(),
            ip6: self.ip6.map(|ip| ip.to_string()).unwrap_or_default(),
            mac: mac_text(self.mac),
            host_mac: mac_text(self.host_mac),
            netns: self.netns.clone(),
            namespace: self.namespace.clone(),
            pod: self.pod.clone(),
            pod_uid: self.pod_uid.clone(),
            container_id: self.container_id.clone(),
        }
    }
}

/// `aa:bb:cc:dd:ee:ff`.
pub fn mac_text(mac: [u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// Reads what [`mac_text`] writes; None for anything else.
pub fn parse_mac(text: &str) -> Option<[u8; 6]> {
    let bytes: Vec<u8> = text.split(':').map(|p| u8::from_str_radix(p, 16).ok()).collect::<Option<_>>()?;
    bytes.try_into().ok()
}

/// The directory of endpoint records.
pub struct Records {
    dir: PathBuf,
}

impl Records {
    pub fn open(dir: impl Into<PathBuf>) -> Result<Self, Error> {
        let dir = dir.into();
        fs::create_dir_all(&dir).map_err(Error::io(format!("making {}", dir.display())))?;
        Ok(Self { dir })
    }

    fn path(&self, container_id: &str) -> PathBuf {
        // Container ids are hex from the runtime; anything else must not climb out of the directory.
        let safe: String =
            container_id.chars().filter(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_')).collect();
        self.dir.join(format!("{safe}.json"))
    }

    pub fn save(&self, endpoint: &Endpoint) -> Result<(), Error> {
        let path = self.path(&endpoint.container_id);
        let partial = path.with_extension("partial");
        let text =
            serde_json::to_vec_pretty(endpoint).map_err(|source| Error::EndpointFile { path: path.clone(), source })?;
        fs::write(&partial, text)
            .and_then(|()| fs::rename(&partial, &path))
            .map_err(Error::io(format!("writing {}", path.display())))
    }

    pub fn load(&self, container_id: &str) -> Result<Option<Endpoint>, Error> {
        read(&self.path(container_id))
    }

    pub fn forget(&self, container_id: &str) -> Result<(), Error> {
        let path = self.path(container_id);
        match fs::remove_file(&path) {
            Err(e) if e.kind() != ErrorKind::NotFound => {
                Err(Error::Io { what: format!("removing {}", path.display()), source: e })
            }
            _ => Ok(()),
        }
    }

    /// Every readable record; a damaged one is reported beside them rather than hiding the others.
    pub fn all(&self) -> Result<(Vec<Endpoint>, Vec<Error>), Error> {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        let entries = fs::read_dir(&self.dir).map_err(Error::io(format!("reading {}", self.dir.display())))?;
        for entry in entries {
            let path = entry.map_err(Error::io(format!("reading {}", self.dir.display())))?.path();
            if path.extension().is_some_and(|e| e == "json") {
                match read(&path) {
                    Ok(endpoint) => good.extend(endpoint),
                    Err(error) => bad.push(error),
                }
            }
        }
        Ok((good, bad))
    }
}

fn read(path: &Path) -> Result<Option<Endpoint>, Error> {
    match fs::read(path) {
        Ok(text) => {
            serde_json::from_slice(&text).map(Some).map_err(|source| Error::EndpointFile { path: path.into(), source })
        }
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(source) => Err(Error::Io { what: format!("reading {}", path.display()), source }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(id: &str) -> Endpoint {
        Endpoint {
            ifindex: 7,
            interface: "veth1".into(),
            ip: Ipv4Addr::new(10, 244, 1, 7),
            ip6: Some(Ipv6Addr::new(0xfd00, 0x10, 0x244, 1, 0, 0, 0, 7)),
            mac: [2, 0, 0, 0, 0, 1],
            host_mac: [2, 0, 0, 0, 0, 2],
            netns: "/run/netns/x".into(),
            namespace: "default".into(),
            pod: "web".into(),
            pod_uid: "u".into(),
            container_id: id.into(),
        }
    }

    #[test]
    fn a_damaged_record_does_not_hide_the_others() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path()).unwrap();
        records.save(&endpoint("aa")).unwrap();
        fs::write(dir.path().join("bb.json"), "{").unwrap();
        let (good, bad) = records.all().unwrap();
        assert_eq!(good, [endpoint("aa")]);
        assert!(bad[0].to_string().contains("bb.json"));
    }

    #[test]
    fn a_record_of_before_ipv6_is_read() {
        let mut old = serde_json::to_value(endpoint("aa")).unwrap();
        assert!(old.as_object_mut().unwrap().remove("ip6").is_some());
        let read: Endpoint = serde_json::from_value(old).unwrap();
        assert_eq!(read, Endpoint { ip6: None, ..endpoint("aa") });
    }

    #[test]
    fn a_container_id_cannot_leave_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let records = Records::open(dir.path().join("in")).unwrap();
        records.save(&endpoint("../../out")).unwrap();
        assert!(dir.path().join("in/out.json").exists());
    }

    #[test]
    fn mac_addresses_read_back() {
        assert_eq!(parse_mac(&mac_text([0, 1, 2, 0xfd, 0xfe, 0xff])), Some([0, 1, 2, 0xfd, 0xfe, 0xff]));
        assert_eq!(parse_mac("00:11:22:33:44"), None);
    }
}
