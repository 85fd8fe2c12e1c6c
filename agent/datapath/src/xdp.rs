//! `xdp_lb` on the uplink: in its driver where that takes it, in front of the stack where somebody asks for that, or not at
//! all; and the word on which and why.
//!
//! The link's pin names its mode (`links/xdp_lb-native`), for a link does not tell. Nothing here fails the agent: what is not
//! sent on from the driver is from the stack. May not know: what the program does.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use aya::Ebpf;
use aya::programs::Xdp;
use serde::Serialize;
use strake_abi::program::XDP_LB;
use tracing::{info, warn};

use crate::loader::{self, Attachment, LoadError};
use crate::sys::{self, Driver, LinkTarget};
use crate::upgrade::detach;

/// What is wished for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum XdpMode {
    /// In the driver of a device; not at all on a virtual interface, whose packets come out of a stack just before.
    #[default]
    Auto,
    /// In the driver of whatever the uplink is; where that takes no program, generic.
    Native,
    /// In front of the stack, on a packet that has been through much of what is to be saved. For trying it out.
    Generic,
    Off,
}

impl XdpMode {
    pub const ALL: [Self; 4] = [Self::Auto, Self::Native, Self::Generic, Self::Off];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        }
    }
}

impl std::str::FromStr for XdpMode {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|mode| mode.as_str() == text);
        found.ok_or_else(|| format!("{text} is no mode of XDP; there are {}", Self::ALL.map(Self::as_str).join(", ")))
    }
}

/// What came of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum XdpAttached {
    Native,
    Generic,
    Off,
}

impl XdpAttached {
    const ON: [Self; 2] = [Self::Native, Self::Generic];

    /// `XDP_FLAGS_DRV_MODE`, `XDP_FLAGS_SKB_MODE`.
    fn flags(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
            Self::Off => 0,
        }
    }
}

impl fmt::Display for XdpAttached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Native => "native",
            Self::Generic => "generic",
            Self::Off => "off",
        })
    }
}

/// The word on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct XdpStatus {
    pub mode: XdpAttached,
    /// Why it is this mode, where that is not what anybody would expect.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub why: String,
}

impl XdpStatus {
    /// Before the programs are exchanged.
    pub fn waiting() -> Self {
        let why = "what an agent before us attached is there until its programs are exchanged";
        Self { mode: XdpAttached::Off, why: why.into() }
    }
}

/// What to try, in order; or why nothing.
fn plan(wanted: XdpMode, interface: &str, driver: &io::Result<Driver>) -> Result<&'static [XdpAttached], String> {
    match (wanted, driver) {
        (XdpMode::Off, _) => Err("switched off (--xdp=off)".into()),
        (XdpMode::Native, _) => Ok(&XdpAttached::ON),
        (XdpMode::Generic, _) => Ok(&[XdpAttached::Generic]),
        (XdpMode::Auto, Ok(driver)) if driver.is_device => Ok(&[XdpAttached::Native]),
        (XdpMode::Auto, Ok(driver)) => Err(format!(
            "{interface} is a virtual interface ({}), where it saves little: --xdp=native attaches it all the same",
            driver.name
        )),
        (XdpMode::Auto, Err(error)) => Err(format!("{interface} does not tell what it is: {error}")),
    }
}

/// Brings about what is wanted on the uplink, as far as it can be had. A link of an agent before us is taken over.
pub fn attach(
    ebpf: &mut Ebpf,
    links: &Path,
    wanted: XdpMode,
    uplink: Option<(&str, u32)>,
    attached: &mut BTreeMap<String, (String, Attachment)>,
) -> XdpStatus {
    attached.retain(|name, _| !name.starts_with(XDP_LB));
    let leave = |kept: Option<XdpAttached>| {
        for mode in XdpAttached::ON.into_iter().filter(|mode| Some(*mode) != kept) {
            if let Err(error) = detach(&links.join(pin(mode))) {
                warn!(%error, "a link of XDP stays");
            }
        }
    };
    let off = |why: String| {
        leave(None);
        XdpStatus { mode: XdpAttached::Off, why }
    };
    let Some((interface, ifindex)) = uplink else { return off("there is no uplink".into()) };
    let driver = sys::driver(interface);
    let modes = match plan(wanted, interface, &driver) {
        Ok(modes) => modes,
        Err(why) => return off(why),
    };
    if let Err(error) = load(ebpf) {
        warn!(error = %chain(&error), "going on without XDP");
        return off(chain(&error));
    }
    let mut refusals: Vec<String> = Vec::new();
    for mode in modes {
        // An interface has one at a time.
        leave(Some(*mode));
        let name = pin(*mode);
        match link(ebpf, &links.join(&name), *mode, ifindex) {
            Ok(how) => {
                info!(interface, %mode, "XDP attached");
                attached.insert(name, (interface.into(), how));
                return XdpStatus { mode: *mode, why: refusals.join("; ") };
            }
            Err(error) => {
                let name = driver.as_ref().map_or("unknown driver", |driver| driver.name.as_str());
                refusals.push(format!("{interface} ({name}) does not take it in mode {mode}: {}", said(&error)));
            }
        }
    }
    let why = refusals.join("; ");
    warn!(why, "going on without XDP");
    off(why)
}

/// Loads the program where one of before us is attached, so that an exchange of programs has what to put there.
pub fn load_over(ebpf: &mut Ebpf, links: &Path) {
    if XdpAttached::ON.into_iter().any(|mode| links.join(pin(mode)).exists())
        && let Err(error) = load(ebpf)
    {
        warn!(error = %chain(&error), "the program of XDP that is attached will have none to follow it");
    }
}

/// The name of a link.
fn pin(mode: XdpAttached) -> String {
    format!("{XDP_LB}-{mode}")
}

fn load(ebpf: &mut Ebpf) -> Result<(), LoadError> {
    let program: &mut Xdp = loader::find(ebpf, XDP_LB)?;
    if program.fd().is_ok() {
        return Ok(());
    }
    program.load().map_err(|source| LoadError::Program { name: XDP_LB, source: Box::new(source) })
}

fn link(ebpf: &Ebpf, pin: &Path, mode: XdpAttached, ifindex: u32) -> io::Result<Attachment> {
    let program = ebpf.program(XDP_LB).ok_or_else(|| io::Error::other("no such program"))?;
    let program = program.fd().map_err(io::Error::other)?.as_fd();
    loader::hold(program, pin, LinkTarget::Xdp(ifindex), || sys::link_create_xdp(program, ifindex, mode.flags()))
}

/// The errors that drivers have for it, in words.
fn said(error: &io::Error) -> String {
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP) => "the driver has no XDP".into(),
        Some(libc::EBUSY | libc::EEXIST) => "another XDP program is attached".into(),
        Some(libc::EINVAL | libc::ERANGE | libc::ENOMEM | libc::ENOSPC) => {
            format!("{error} (an MTU above a page, or too few queues, are usual reasons)")
        }
        _ => error.to_string(),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source()).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn driver(name: &str, is_device: bool) -> io::Result<Driver> {
        Ok(Driver { name: name.into(), is_device })
    }

    #[test]
    fn auto_is_native_on_devices_and_nothing_elsewhere() {
        assert_eq!(plan(XdpMode::Auto, "eth0", &driver("ixgbe", true)), Ok(&[XdpAttached::Native][..]));
        let why = plan(XdpMode::Auto, "eth0", &driver("veth", false)).unwrap_err();
        assert!(why.contains("eth0 is a virtual interface (veth)") && why.contains("--xdp=native"), "{why}");
        let why = plan(XdpMode::Auto, "eth0", &Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP))).unwrap_err();
        assert!(why.contains("does not tell"), "{why}");
    }

    #[test]
    fn native_falls_back_to_generic_and_generic_is_never_more() {
        let veth = driver("veth", false);
        assert_eq!(plan(XdpMode::Native, "eth0", &veth), Ok(&[XdpAttached::Native, XdpAttached::Generic][..]));
        assert_eq!(plan(XdpMode::Generic, "eth0", &veth), Ok(&[XdpAttached::Generic][..]));
        assert!(plan(XdpMode::Off, "eth0", &driver("ixgbe", true)).is_err());
    }

    #[test]
    fn modes_are_named_as_they_are_written() {
        for mode in XdpMode::ALL {
            assert_eq!(mode.as_str().parse(), Ok(mode));
        }
        assert!("fast".parse::<XdpMode>().unwrap_err().contains("auto, native, generic, off"));
    }
}
