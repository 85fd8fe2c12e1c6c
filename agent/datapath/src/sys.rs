//! The system calls that aya does not offer: in-place replacement of the program behind a link, what a link is attached
//! to, batches of map reads and writes, the end of every running program, and what is behind an interface.
//!
//! May not know: which maps and programs there are.
#![expect(
    unsafe_code,
    reason = "bpf(2), membarrier(2), SO_NETNS_COOKIE, SIOCETHTOOL and malloc_trim(3) have no safe wrapper in our dependencies"
)]

pub mod rows;

use std::ffi::CString;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use aya::Pod;

const BPF_OBJ_PIN: libc::c_long = 6;
const BPF_OBJ_GET: libc::c_long = 7;
const BPF_OBJ_GET_INFO_BY_FD: libc::c_long = 15;
const BPF_MAP_LOOKUP_BATCH: libc::c_long = 24;
const BPF_MAP_UPDATE_BATCH: libc::c_long = 26;
const BPF_MAP_DELETE_BATCH: libc::c_long = 27;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_LINK_UPDATE: libc::c_long = 29;
const BPF_LINK_DETACH: libc::c_long = 34;

fn bpf<T>(command: libc::c_long, attr: &mut T) -> io::Result<u32> {
    // SAFETY: `attr` is a live, repr(C) value without padding whose size is passed along; the kernel reads and writes
    // no more than that, and the pointers within (set by the callers below) outlive the call.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    u32::try_from(result).map_err(|_| io::Error::last_os_error())
}

fn owned(fd: u32) -> OwnedFd {
    // SAFETY: the kernel has just made this descriptor for us, and nobody else knows it.
    unsafe { OwnedFd::from_raw_fd(fd as i32) }
}

#[repr(C)]
struct ObjAttr {
    path: u64,
    fd: u32,
    flags: u32,
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::other)
}

/// Opens what is pinned at `path`.
pub fn open_pin(path: &Path) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    bpf(BPF_OBJ_GET, &mut ObjAttr { path: path.as_ptr() as u64, fd: 0, flags: 0 }).map(owned)
}

/// Pins a link, program or map at `path`.
pub fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    bpf(BPF_OBJ_PIN, &mut ObjAttr { path: path.as_ptr() as u64, fd: object.as_raw_fd() as u32, flags: 0 }).map(drop)
}

/// Attaches a program by a link. `target` is a cgroup's descriptor or an interface index, as `attach_type` (the
/// kernel's `enum bpf_attach_type`) asks. The program runs right after that of the link `after` (tcx), or after those that
/// are attached already.
pub fn link_create(
    program: BorrowedFd<'_>,
    target: u32,
    attach_type: u32,
    after: Option<BorrowedFd<'_>>,
) -> io::Result<OwnedFd> {
    const BPF_F_AFTER: u32 = 1 << 4;
    const BPF_F_LINK: u32 = 1 << 13;
    #[repr(C)]
    struct Attr {
        program: u32,
        target: u32,
        attach_type: u32,
        flags: u32,
        relative: u32,
        unused: u32,
        expected_revision: u64,
    }
    let program = program.as_raw_fd() as u32;
    let mut attr = Attr { program, target, attach_type, flags: 0, relative: 0, unused: 0, expected_revision: 0 };
    if let Some(link) = after {
        attr.flags = BPF_F_AFTER | BPF_F_LINK;
        attr.relative = link.as_raw_fd() as u32;
    }
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Attaches a program to an interface in a mode of XDP (`XDP_FLAGS_*`).
pub fn link_create_xdp(program: BorrowedFd<'_>, ifindex: u32, mode: u32) -> io::Result<OwnedFd> {
    const BPF_XDP: u32 = 37;
    let mut attr = [program.as_raw_fd() as u32, ifindex, BPF_XDP, mode];
    bpf(BPF_LINK_CREATE, &mut attr).map(owned)
}

/// Swaps the program behind a link; packets and calls see the old or the new one. ENOLINK: what it was attached to is
/// gone.
pub fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        link: u32,
        program: u32,
        flags: u32,
        old_program: u32,
    }
    let mut attr =
        Attr { link: link.as_raw_fd() as u32, program: program.as_raw_fd() as u32, flags: 0, old_program: 0 };
    bpf(BPF_LINK_UPDATE, &mut attr).map(drop)
}

/// Detaches a link at once. (Without it a link whose last pin is removed goes a grace period later.)
pub fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    let mut attr = link.as_raw_fd() as u32;
    bpf(BPF_LINK_DETACH, &mut attr).map(drop)
}

/// What a link is attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkTarget {
    /// cgroup id (the inode of its folder); 0 when the cgroup is gone.
    Cgroup(u64),
    /// Interface index; 0 when the interface is gone.
    Tcx(u32),
    /// As `Tcx`.
    Xdp(u32),
    /// Another type of link, by the kernel's number.
    Other(u32),
}

/// A link, as the kernel tells of it.
#[derive(Clone, Copy, Debug)]
pub struct Link {
    pub target: LinkTarget,
    /// `enum bpf_attach_type`.
    pub attach_type: u32,
    /// Id of the program behind it.
    pub program: u32,
}

/// Asks what a link is attached to.
pub fn link_target(link: BorrowedFd<'_>) -> io::Result<LinkTarget> {
    link_info(link).map(|link| link.target)
}

/// Id of a program.
pub fn program_id(program: BorrowedFd<'_>) -> io::Result<u32> {
    // struct bpf_prog_info: type, id ...
    info(program).map(|info| info[1])
}

/// Asks about a link.
pub fn link_info(link: BorrowedFd<'_>) -> io::Result<Link> {
    const CGROUP: u32 = 3;
    const XDP: u32 = 6;
    const TCX: u32 = 11;
    // struct bpf_link_info: type, id, prog_id, (padding), then a union that is 8-aligned.
    let info = info(link)?;
    let (target, attach_type) = match info[0] {
        CGROUP => (LinkTarget::Cgroup(u64::from(info[4]) | u64::from(info[5]) << 32), info[6]),
        TCX => (LinkTarget::Tcx(info[4]), info[5]),
        XDP => (LinkTarget::Xdp(info[4]), 37),
        other => (LinkTarget::Other(other), 0),
    };
    Ok(Link { target, attach_type, program: info[2] })
}

/// The first words of what the kernel says about a link or a program.
fn info(object: BorrowedFd<'_>) -> io::Result<[u32; 32]> {
    let mut info = [0_u32; 32];
    #[repr(C)]
    struct Attr {
        fd: u32,
        length: u32,
        info: u64,
    }
    let mut attr =
        Attr { fd: object.as_raw_fd() as u32, length: size_of::<[u32; 32]>() as u32, info: info.as_mut_ptr() as u64 };
    bpf(BPF_OBJ_GET_INFO_BY_FD, &mut attr)?;
    Ok(info)
}

#[repr(C)]
struct BatchAttr {
    in_batch: u64,
    out_batch: u64,
    keys: u64,
    values: u64,
    count: u32,
    map: u32,
    elem_flags: u64,
    flags: u64,
}

/// Writes rows in one call (5.6). Returns how many were written when the kernel stops in between.
pub fn update_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, keys: &[K], values: &[V]) -> Result<(), (usize, io::Error)> {
    assert_eq!(keys.len(), values.len(), "a value for each key");
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = batch(map, keys);
    attr.values = values.as_ptr() as u64;
    bpf(BPF_MAP_UPDATE_BATCH, &mut attr).map(drop).map_err(|error| (attr.count as usize, error))
}

/// Deletes rows in one call (5.6). ENOENT stops at a row that is not there.
pub fn delete_batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> Result<(), (usize, io::Error)> {
    if keys.is_empty() {
        return Ok(());
    }
    let mut attr = batch(map, keys);
    bpf(BPF_MAP_DELETE_BATCH, &mut attr).map(drop).map_err(|error| (attr.count as usize, error))
}

/// How far a walk through a hash map has come.
#[derive(Clone, Copy, Debug)]
pub struct Cursor {
    /// The bucket to go on at; none before the first step.
    bucket: Option<u32>,
    /// How many rows a step may bring. The kernel returns buckets as a whole, so one that holds more makes it larger.
    room: usize,
    done: bool,
}

impl Cursor {
    /// Steps of about `room` rows.
    pub fn new(room: usize) -> Self {
        Self { bucket: None, room, done: false }
    }
}

/// The next rows of a hash map (5.6); none at its end. A row that is there all the while is met once, whatever comes and
/// goes meanwhile; and looking does not make a row of an LRU map younger.
pub fn lookup_batch<K: Pod, V: Pod>(map: BorrowedFd<'_>, cursor: &mut Cursor) -> io::Result<Option<Vec<(K, V)>>> {
    while !cursor.done {
        let (mut keys, mut values) = (Vec::<K>::with_capacity(cursor.room), Vec::<V>::with_capacity(cursor.room));
        let (bucket, mut next) = (cursor.bucket.unwrap_or_default(), 0_u32);
        let mut attr = BatchAttr {
            in_batch: if cursor.bucket.is_some() { std::ptr::from_ref(&bucket) as u64 } else { 0 },
            out_batch: std::ptr::from_mut(&mut next) as u64,
            keys: keys.as_mut_ptr() as u64,
            values: values.as_mut_ptr() as u64,
            count: cursor.room as u32,
            map: map.as_raw_fd() as u32,
            elem_flags: 0,
            flags: 0,
        };
        match bpf(BPF_MAP_LOOKUP_BATCH, &mut attr) {
            Ok(_) => {}
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => cursor.done = true,
            Err(error) if error.raw_os_error() == Some(libc::ENOSPC) => {
                cursor.room *= 2;
                continue;
            }
            Err(error) => return Err(error),
        }
        cursor.bucket = Some(next);
        let count = (attr.count as usize).min(cursor.room);
        // SAFETY: the kernel has written `count` keys and values of these types' sizes, no more than there was room for.
        unsafe {
            keys.set_len(count);
            values.set_len(count);
        }
        if count > 0 {
            return Ok(Some(keys.into_iter().zip(values).collect()));
        }
    }
    Ok(None)
}

fn batch<K: Pod>(map: BorrowedFd<'_>, keys: &[K]) -> BatchAttr {
    BatchAttr {
        in_batch: 0,
        out_batch: 0,
        keys: keys.as_ptr() as u64,
        values: 0,
        count: keys.len() as u32,
        map: map.as_raw_fd() as u32,
        elem_flags: 0,
        flags: 0,
    }
}

/// Returns when every BPF program that was running has ended (`MEMBARRIER_CMD_GLOBAL` waits for an RCU grace period).
pub fn wait_for_running_programs() -> io::Result<()> {
    const MEMBARRIER_CMD_GLOBAL: libc::c_long = 1;
    // SAFETY: membarrier takes integers only.
    let result = unsafe { libc::syscall(libc::SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// The cookie of the network namespace a socket is in (5.14).
pub fn netns_cookie(socket: BorrowedFd<'_>) -> io::Result<u64> {
    const SO_NETNS_COOKIE: libc::c_int = 71;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the pointers are to live locals, and `length` is the size of the first.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_NETNS_COOKIE,
            std::ptr::from_mut(&mut cookie).cast(),
            &mut length,
        )
    };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(cookie) }
}

/// What is behind an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Driver {
    pub name: String,
    /// It sits on a bus; else it is made of software.
    pub is_device: bool,
}

/// Asks for the MTU of an interface of the calling thread's network namespace (`SIOCGIFMTU`).
pub fn mtu(interface: &str) -> io::Result<u32> {
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        mtu: libc::c_int,
        rest: [u8; 20],
    }
    const { assert!(size_of::<Request>() == size_of::<libc::ifreq>()) };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    let mut request = Request { name: [0; libc::IFNAMSIZ], mtu: 0, rest: [0; 20] };
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    // SAFETY: the request is laid out as the kernel's `struct ifreq`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFMTU, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(request.mtu.unsigned_abs())
}

/// Asks for the driver of an interface (`ETHTOOL_GDRVINFO`).
pub fn driver(interface: &str) -> io::Result<Driver> {
    const ETHTOOL_GDRVINFO: u32 = 3;
    const SIOCETHTOOL: libc::Ioctl = 0x8946;
    #[repr(C)]
    struct Info {
        command: u32,
        driver: [u8; 32],
        version: [u8; 32],
        firmware: [u8; 32],
        bus: [u8; 32],
        rest: [u8; 32 + 12 + 5 * 4],
    }
    #[repr(C)]
    struct Request {
        name: [u8; libc::IFNAMSIZ],
        data: *mut Info,
        rest: [u64; 2],
    }
    const { assert!(size_of::<Info>() == 196 && size_of::<Request>() == size_of::<libc::ifreq>()) };
    let mut info = Info {
        command: ETHTOOL_GDRVINFO,
        driver: [0; 32],
        version: [0; 32],
        firmware: [0; 32],
        bus: [0; 32],
        rest: [0; 64],
    };
    let mut request = Request { name: [0; libc::IFNAMSIZ], data: &raw mut info, rest: [0; 2] };
    if interface.len() >= libc::IFNAMSIZ {
        return Err(io::Error::from_raw_os_error(libc::ENODEV));
    }
    request.name[..interface.len()].copy_from_slice(interface.as_bytes());
    let socket = std::net::UdpSocket::bind("127.0.0.1:0").or_else(|_| std::net::UdpSocket::bind("0.0.0.0:0"))?;
    // SAFETY: the request is laid out as the kernel's `struct ifreq`, and points to a live `struct ethtool_drvinfo`.
    if unsafe { libc::ioctl(socket.as_raw_fd(), SIOCETHTOOL, &raw mut request) } < 0 {
        return Err(io::Error::last_os_error());
    }
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
    Ok(Driver { name: text(&info.driver), is_device: info.bus[0] != 0 })
}

/// Gives memory that was freed back to the system: what planning a whole cluster takes is not needed for long.
pub fn trim_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: takes no pointer, and the allocator locks itself.
    unsafe {
        libc::malloc_trim(0);
    }
}
