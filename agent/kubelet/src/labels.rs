//! Names of the labels and annotations on sandboxes and containers, the stock kubelet's, so that either can adopt
//! what the other started. Knows no logic.

/// Pod name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Pod namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Pod UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Container name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";

/// Hash of the parts of the container's spec whose change means a restart.
pub const HASH: &str = "io.kubernetes.container.hash";
/// How often the container was restarted.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Path of the termination message in the container.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// `File` or `FallbackToLogsOnError`.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// The container's ports, as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// The preStop handler, as JSON, for a Pod whose object is gone.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Grace period of the Pod, seconds.
pub const GRACE_PERIOD: &str = "io.kubernetes.pod.terminationGracePeriod";
/// Grace period asked for when the Pod was deleted, seconds.
pub const DELETION_GRACE_PERIOD: &str = "io.kubernetes.pod.deletionGracePeriod";

/// Where the Pod came from.
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// When the kubelet first saw it (RFC 3339).
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";
