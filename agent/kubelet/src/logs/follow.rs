//! Reading a container's log for `kubectl logs`: from where, how much, and following it as it grows, woken by inotify.
//! Knows nothing of HTTP: chunks go into a channel.

use std::io::SeekFrom;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use k8s_openapi::jiff::Timestamp;
use nix::sys::inotify::{AddWatchFlags, InitFlags, Inotify};
use tokio::fs::File;
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncBufReadExt as _, AsyncSeekExt as _, BufReader};
use tokio::sync::{mpsc, watch};

use super::format::{Line, Stream, parse, tail_offset};
use crate::error::{Error, Result};
use crate::runtime::{PodRuntime, State};
use crate::sys::readable;

/// What of a log is wanted (PodLogOptions).
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// Go on as it grows, until the container has ended.
    pub follow: bool,
    /// Only the last lines.
    pub tail: Option<u64>,
    /// Only lines not before this time.
    pub since: Option<Timestamp>,
    /// Put the time before each line.
    pub timestamps: bool,
    /// At most so many bytes.
    pub limit: Option<u64>,
    /// Only this stream.
    pub stream: Option<Stream>,
}

/// Changes below a path, as a stream of wake-ups.
pub struct Watch {
    inotify: Inotify,
    /// A duplicate of its descriptor, ready when it is.
    ready: AsyncFd<OwnedFd>,
}

impl Watch {
    /// Watches a directory and what is in it for writes, new and moved files.
    pub fn directory(dir: &Path) -> Result<Self> {
        let i = Inotify::init(InitFlags::IN_NONBLOCK | InitFlags::IN_CLOEXEC).map_err(Error::os("watch", dir))?;
        let flags = AddWatchFlags::IN_MODIFY
            | AddWatchFlags::IN_CREATE
            | AddWatchFlags::IN_MOVED_TO
            | AddWatchFlags::IN_MOVED_FROM
            | AddWatchFlags::IN_DELETE;
        i.add_watch(dir, flags).map_err(Error::os("watch", dir))?;
        let fd = i.as_fd().try_clone_to_owned().map_err(Error::io("watch", dir))?;
        let ready = readable(fd).map_err(Error::io("watch", dir))?;
        Ok(Self { inotify: i, ready })
    }

    /// Returns after something changed since the last call.
    pub async fn changed(&self) -> std::io::Result<()> {
        let mut guard = self.ready.readable().await?;
        while let Ok(events) = self.inotify.read_events() {
            if events.is_empty() {
                break;
            }
        }
        guard.clear_ready();
        Ok(())
    }
}

/// Writes the wanted part of the log at `path` into `out`. `runtime` tells whether container `id` still runs.
/// Ends quietly when the receiver is gone.
pub async fn read(
    path: PathBuf,
    id: String,
    options: Options,
    mut runtime: Option<watch::Receiver<PodRuntime>>,
    out: mpsc::Sender<std::io::Result<Bytes>>,
) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("/")).to_owned();
    let watcher = if options.follow { Some(Watch::directory(&dir)?) } else { None };
    let mut file = open(&path).await?;
    if let Some(lines) = options.tail {
        let std = file.into_std().await;
        let (std, offset) = tokio::task::spawn_blocking(move || {
            let mut std = std;
            let offset = tail_offset(&mut std, lines);
            (std, offset)
        })
        .await
        .map_err(|e| Error::Pod(format!("reading {}: {e}", path.display())))?;
        file = File::from_std(std);
        let offset = offset.map_err(Error::io("read", &path))?;
        file.seek(SeekFrom::Start(offset)).await.map_err(Error::io("seek in", &path))?;
    }
    let mut reader = BufReader::with_capacity(64 * 1024, file);
    let mut raw = Vec::new();
    let mut chunk = Vec::new();
    let mut left = options.limit.unwrap_or(u64::MAX);
    let mut continued = false;
    loop {
        let n = reader.read_until(b'\n', &mut raw).await.map_err(Error::io("read", &path))?;
        if raw.ends_with(b"\n") {
            if let Some(line) = parse(&raw) {
                push(&mut chunk, &line, &options, &mut continued);
            }
            raw.clear();
            if (chunk.len() < 32 * 1024 || left == 0) && !reader.buffer().is_empty() {
                continue;
            }
        }
        if !chunk.is_empty() {
            if chunk.len() as u64 > left {
                chunk.truncate(left as usize);
            }
            left -= chunk.len() as u64;
            if out.send(Ok(Bytes::from(std::mem::take(&mut chunk)))).await.is_err() || left == 0 {
                return Ok(());
            }
        }
        if n > 0 {
            continue;
        }
        // End of the file.
        let Some(watcher) = &watcher else { return Ok(()) };
        if rotated(reader.get_ref(), &path).await {
            reader = BufReader::with_capacity(64 * 1024, open(&path).await?);
            continue;
        }
        if ended(runtime.as_ref(), &id) {
            // What the runtime wrote between our last read and the exit.
            let grown = file_len(reader.get_ref()).await > reader.stream_position().await.unwrap_or(u64::MAX);
            if grown {
                continue;
            }
            return Ok(());
        }
        tokio::select! {
            woken = watcher.changed() => woken.map_err(Error::io("watch", &dir))?,
            () = changed(&mut runtime) => {}
            () = out.closed() => return Ok(()),
        }
    }
}

async fn open(path: &Path) -> Result<File> {
    File::open(path).await.map_err(Error::io("open", path))
}

async fn file_len(file: &File) -> u64 {
    file.metadata().await.map_or(0, |m| m.len())
}

async fn rotated(file: &File, path: &Path) -> bool {
    let (Ok(ours), Ok(there)) = (file.metadata().await, tokio::fs::metadata(path).await) else { return false };
    ours.ino() != there.ino()
}

fn ended(runtime: Option<&watch::Receiver<PodRuntime>>, id: &str) -> bool {
    let Some(rx) = runtime else { return true };
    if rx.has_changed().is_err() {
        return true; // the Pod is gone
    }
    rx.borrow().containers.iter().find(|c| c.id == id).is_none_or(|c| c.state == State::Exited)
}

async fn changed(runtime: &mut Option<watch::Receiver<PodRuntime>>) {
    let Some(rx) = runtime else { return std::future::pending().await };
    if rx.changed().await.is_err() {
        *runtime = None;
    }
}

fn push(out: &mut Vec<u8>, line: &Line<'_>, options: &Options, continued: &mut bool) {
    if options.stream.is_some_and(|s| s != line.stream) {
        return;
    }
    if let Some(since) = options.since
        && line.timestamp().is_some_and(|t| t < since)
    {
        return;
    }
    if options.timestamps && !*continued {
        out.extend_from_slice(line.time.as_bytes());
        out.push(b' ');
    }
    out.extend_from_slice(line.text);
    if !line.partial {
        out.push(b'\n');
    }
    *continued = line.partial;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::Record;
    use std::io::Write as _;

    fn line(second: u32, text: &str) -> String {
        format!("2026-01-02T03:04:{second:02}.000000000Z stdout F {text}\n")
    }

    async fn all(mut rx: mpsc::Receiver<std::io::Result<Bytes>>) -> String {
        let mut s = String::new();
        while let Some(b) = rx.recv().await {
            s.push_str(std::str::from_utf8(&b.unwrap()).unwrap());
        }
        s
    }

    async fn once(path: &Path, options: Options) -> String {
        let (tx, rx) = mpsc::channel(8);
        let task = tokio::spawn(read(path.to_owned(), "c".into(), options, None, tx));
        let s = all(rx).await;
        task.await.unwrap().unwrap();
        s
    }

    #[tokio::test]
    async fn tail_since_timestamps_and_limit() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, (0..10).map(|i| line(i, &format!("n{i}"))).collect::<String>()).unwrap();
        assert_eq!(once(&path, Options { tail: Some(2), ..Default::default() }).await, "n8\nn9\n");
        let since = Some("2026-01-02T03:04:08Z".parse().unwrap());
        assert_eq!(once(&path, Options { since, ..Default::default() }).await, "n8\nn9\n");
        assert_eq!(once(&path, Options { limit: Some(4), ..Default::default() }).await, "n0\nn");
        let s = once(&path, Options { tail: Some(1), timestamps: true, ..Default::default() }).await;
        assert_eq!(s, "2026-01-02T03:04:09.000000000Z n9\n");
    }

    #[tokio::test]
    async fn following_goes_over_a_rotation_and_ends_with_the_container() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("0.log");
        std::fs::write(&path, line(0, "one")).unwrap();
        let running = PodRuntime {
            containers: vec![Record { id: "c".into(), state: State::Running, ..Default::default() }],
            ..Default::default()
        };
        let (state, state_rx) = watch::channel(running.clone());
        let (tx, mut rx) = mpsc::channel(8);
        let options = Options { follow: true, ..Default::default() };
        let task = tokio::spawn(read(path.clone(), "c".into(), options, Some(state_rx), tx));
        assert_eq!(rx.recv().await.unwrap().unwrap(), "one\n");
        let mut f = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        f.write_all(line(1, "two").as_bytes()).unwrap();
        assert_eq!(rx.recv().await.unwrap().unwrap(), "two\n");
        std::fs::rename(&path, dir.path().join("0.log.1")).unwrap();
        std::fs::write(&path, line(2, "three")).unwrap();
        assert_eq!(rx.recv().await.unwrap().unwrap(), "three\n");
        let mut ended = running;
        ended.containers[0].state = State::Exited;
        state.send(ended).unwrap();
        assert_eq!(all(rx).await, "");
        task.await.unwrap().unwrap();
    }
}
