//! The crate's error type: each variant names what was being done and to what.

use std::path::PathBuf;

/// What can stop the kubelet, or one step of a Pod's life.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file or directory operation failed.
    #[error("{action} {}: {source}", path.display())]
    Io {
        /// What was tried, in the imperative ("write", "create directory").
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's answer.
        source: std::io::Error,
    },
    /// A CRI call failed.
    #[error("{call}: rpc error: code = {code} desc = {message}")]
    Cri {
        /// Name of the RPC.
        call: &'static str,
        /// gRPC status code by its stock name.
        code: &'static str,
        /// The runtime's message.
        message: String,
    },
    /// A call to the API server failed.
    #[error("{what}: {source}")]
    Api {
        /// What was asked of the API server.
        what: String,
        /// Its answer.
        source: Box<kube::Error>,
    },
    /// containerd did not come up.
    #[error("containerd at {}: {message}", socket.display())]
    Containerd {
        /// Socket it was to serve.
        socket: PathBuf,
        /// What went wrong, with the end of its log.
        message: String,
    },
    /// The serving certificate, key or client CA cannot be used.
    #[error("TLS of the kubelet server: {0}")]
    Tls(String),
    /// A volume cannot be set up; the text follows the stock event.
    #[error("MountVolume.SetUp failed for volume \"{volume}\" : {message}")]
    Volume {
        /// Volume name in the Pod.
        volume: String,
        /// Why.
        message: String,
    },
    /// The Pod asks for something that is not there or not possible; the text goes to its status.
    #[error("{0}")]
    Pod(String),
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// For `map_err` on file operations.
    pub fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// For `map_err` on `nix` calls.
    pub fn os(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(nix::Error) -> Self {
        let path = path.into();
        move |errno| Self::Io { action, path, source: errno.into() }
    }

    /// For `map_err` on API calls.
    pub fn api(what: impl Into<String>) -> impl FnOnce(kube::Error) -> Self {
        let what = what.into();
        move |source| Self::Api { what, source: Box::new(source) }
    }

    /// Whether the API server answered 404.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Api { source, .. } if matches!(&**source, kube::Error::Api(s) if s.code == 404))
    }

    /// Whether the runtime answered NotFound.
    pub fn is_cri_not_found(&self) -> bool {
        matches!(self, Self::Cri { code: "NotFound", .. })
    }
}
