//! One guest: what is in it, and one run of it.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use super::cpio::Archive;
use super::{Error, Kernel, QEMU};
use crate::run;

/// Ends what the script prints; the status follows.
const STATUS: &str = "guest exit status ";

/// PID 1 of the guest. Mounts what any system has; cgroup2 and bpffs are the script's business.
const INIT: &str = "#!/bin/sh
export PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mkdir -p /dev/shm /tmp /run
mount -t tmpfs tmpfs /tmp
mount -t tmpfs tmpfs /run
ip link set lo up
exec </dev/null >/dev/ttyS1 2>&1
sh /script
echo \"guest exit status $?\"
poweroff -f
";

/// A guest in the making.
pub struct Guest {
    kernel: Kernel,
    /// busybox, init, modules.
    base: Archive,
    /// The programs under test and their libraries.
    payload: Archive,
    memory_mib: u32,
}

/// How a run ended.
#[derive(Debug)]
pub struct Outcome {
    pub status: i32,
    /// What the script printed.
    pub output: String,
    /// From power-on to the exit status.
    pub took: Duration,
}

impl Guest {
    /// A guest with a shell.
    pub fn new(kernel: Kernel) -> Result<Self, Error> {
        let (mut base, mut payload) = (Archive::default(), Archive::default());
        for folder in ["/proc", "/sys", "/dev", "/tmp", "/run", "/root", "/etc", "/var"] {
            base.directory(folder);
        }
        base.device("/dev/console", 5, 1);
        base.file("/init", 0o755, INIT.into());
        let busybox = find("busybox")?;
        let applets = run(&busybox.display().to_string(), &["--list"])?;
        for applet in applets.lines().filter(|applet| *applet != "busybox") {
            base.link(&format!("/bin/{applet}"), "/bin/busybox");
        }
        program(&mut payload, &busybox, "/bin/busybox")?;
        Ok(Self { kernel, base, payload, memory_mib: 1024 })
    }

    pub fn memory_mib(&mut self, memory_mib: u32) {
        self.memory_mib = memory_mib;
    }

    /// Puts a program of this machine, without its debug information, and the libraries it needs into the guest.
    pub fn program(&mut self, here: &Path, there: &str) -> Result<(), Error> {
        program(&mut self.payload, here, there)
    }

    /// The same for a program on this machine's PATH. It comes first on the guest's; but the guest's shell prefers
    /// commands of its own to both, so a script calls it as `/usr/sbin/NAME`.
    pub fn tool(&mut self, name: &str) -> Result<(), Error> {
        let here = find(name)?;
        program(&mut self.payload, &here, &format!("/usr/sbin/{name}"))
    }

    pub fn file(&mut self, there: &str, content: impl Into<Vec<u8>>) {
        self.payload.file(there, 0o755, content.into());
    }

    /// Puts modules and what they depend on into the guest. `sh /modules/GROUP` loads them there.
    pub fn modules(&mut self, group: &str, names: &[&str]) -> Result<(), Error> {
        let mut load = String::new();
        for module in self.kernel.modules(names)? {
            let path = format!("/modules/{}.ko", module.name);
            load.push_str(&format!("[ -e /sys/module/{} ] || insmod {path} || exit 1\n", module.name));
            self.base.file(&path, 0o644, module.content);
        }
        self.base.file(&format!("/modules/{group}"), 0o755, load.into_bytes());
        Ok(())
    }

    /// Boots, runs `script` with the guest's shell, and returns what it printed and how it ended. `heard` gets each
    /// line as it comes. The image and the console's log are written to `folder`.
    pub fn run(
        &self,
        script: &str,
        folder: &Path,
        limit: Duration,
        mut heard: impl FnMut(&str),
    ) -> Result<Outcome, Error> {
        let image = folder.join("initrd");
        let console = folder.join("console.log");
        let _ = fs::remove_file(&console);
        self.write(script, &image)?;
        let started = Instant::now();
        let mut machine = self.start(&image, &console)?;
        let Some(stdout) = machine.0.stdout.take() else { return Err(self.died("", &console)) };
        let (sender, lines) = channel();
        // Ends with the machine: its end of the pipe closes.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        let mut output = String::new();
        loop {
            match lines.recv_timeout(limit.saturating_sub(started.elapsed())) {
                Ok(line) => {
                    if let Some(status) = line.strip_prefix(STATUS).and_then(|status| status.parse().ok()) {
                        return Ok(Outcome { status, output, took: started.elapsed() });
                    }
                    heard(&line);
                    output.push_str(&line);
                    output.push('\n');
                }
                Err(RecvTimeoutError::Timeout) => {
                    let (release, tail) = (self.kernel.release.clone(), last_words(&output, &console));
                    return Err(Error::TooLong { release, limit, tail });
                }
                Err(RecvTimeoutError::Disconnected) => return Err(self.died(&output, &console)),
            }
        }
    }

    fn died(&self, output: &str, console: &Path) -> Error {
        Error::Died { release: self.kernel.release.clone(), tail: last_words(output, console) }
    }

    fn write(&self, script: &str, image: &Path) -> Result<(), Error> {
        let fail = || format!("writing {}", image.display());
        let mut own = Archive::default();
        own.file("/script", 0o755, script.into());
        let mut out = BufWriter::new(File::create(image).map_err(Error::io(fail()))?);
        for archive in [&self.base, &self.payload, &own] {
            archive.write(&mut out).map_err(Error::io(fail()))?;
        }
        out.flush().map_err(Error::io(fail()))
    }

    fn start(&self, image: &Path, console: &Path) -> Result<Machine, Error> {
        let mut qemu = Command::new(QEMU);
        // tcg: the machine's own virtualisation may be missing, or hold other kernels only.
        qemu.args(["-accel", "tcg", "-machine", "q35", "-cpu", "max,-cx16,-la57", "-smp", "1", "-nodefaults"])
            .args(["-no-user-config", "-nic", "none", "-display", "none", "-no-reboot"])
            .args(["-m", &self.memory_mib.to_string()])
            .arg("-kernel")
            .arg(&self.kernel.image)
            .arg("-initrd")
            .arg(image)
            .args(["-append", "console=ttyS0 loglevel=4 panic=-1 random.trust_cpu=on"])
            .arg("-serial")
            .arg(format!("file:{}", console.display()))
            .args(["-serial", "stdio"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::inherit());
        let started = qemu.spawn();
        let child = started.map_err(|source| crate::Error::Spawn { command: QEMU.into(), source })?;
        Ok(Machine(child))
    }
}

/// Ended when dropped, whichever way the run ends.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn last_words(output: &str, console: &Path) -> String {
    let kernel = fs::read(console).unwrap_or_default();
    let kernel = String::from_utf8_lossy(&kernel);
    let tail = |text: &str| {
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    };
    format!("{}\nthe kernel's:\n{}", tail(output), tail(&kernel))
}

/// A program on PATH or where system programs are.
fn find(name: &str) -> Result<PathBuf, Error> {
    let path = std::env::var("PATH").unwrap_or_default();
    let mut folders = path.split(':').chain(["/usr/sbin", "/sbin"]);
    folders
        .find_map(|folder| Some(Path::new(folder).join(name)).filter(|path| path.is_file()))
        .ok_or_else(|| crate::Error::Spawn { command: name.into(), source: std::io::ErrorKind::NotFound.into() }.into())
}

fn program(archive: &mut Archive, here: &Path, there: &str) -> Result<(), Error> {
    // `strip` refuses scripts; those have nothing to strip.
    let read = fs::read(here).map_err(Error::io(format!("reading {}", here.display())))?;
    let content = if read.starts_with(b"\x7fELF") { stripped(here)? } else { read };
    archive.file(there, 0o755, content);
    for library in libraries(here)? {
        if !archive.has(&library) {
            let content = fs::read(&library).map_err(Error::io(format!("reading {library}")))?;
            archive.file(&library, 0o755, content);
        }
    }
    Ok(())
}

/// A debug build is mostly debug information, which the guest's memory has no room for.
fn stripped(program: &Path) -> Result<Vec<u8>, Error> {
    // It seeks in what it writes, so that must be a file.
    let file = tempfile::NamedTempFile::new().map_err(Error::io("making a temporary file"))?;
    let output = Command::new("strip").arg("-o").arg(file.path()).arg(program).output();
    let command = || format!("strip {}", program.display());
    let output = output.map_err(|source| crate::Error::Spawn { command: command(), source })?;
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
        return Err(crate::Error::Command { command: command(), status: output.status, stderr }.into());
    }
    fs::read(file.path()).map_err(Error::io(format!("reading what {} wrote", command())))
}

/// What the dynamic linker would load, itself included.
fn libraries(program: &Path) -> Result<Vec<String>, Error> {
    let output = Command::new("ldd").arg(program).output();
    let output = output.map_err(|source| crate::Error::Spawn { command: "ldd".into(), source })?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    // `NAME => PATH (0x..)`, `PATH (0x..)` for the linker, `linux-vdso.so.1 (0x..)`; nothing for a static program.
    let mut found = Vec::new();
    for line in text.lines().map(str::trim) {
        let (name, rest) = line.split_once(" => ").unwrap_or((line, line));
        if rest.starts_with("not found") {
            return Err(Error::NoLibrary { program: program.into(), library: name.into() });
        }
        if let Some(path) = rest.split(' ').next().filter(|path| path.starts_with('/')) {
            found.push(path.to_owned());
        }
    }
    Ok(found)
}
