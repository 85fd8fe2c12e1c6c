//! What the cluster looks like, as one immutable value.
//!
//! ```text
//!   Services ──────┐
//!   EndpointSlices ┤   extract    ┌───────┐ debounce  ┌─────────────┐
//!   Nodes ─────────┼─────────────►│ Cache │──────────►│ Arc<World>  │──► datapath, DNS, flows
//!   Pods ──────────┤ (our types)  └───────┘  (5 ms)   └─────────────┘    (tokio watch channel)
//!   Namespaces ────┤
//!   RuntimeClasses ┘
//! ```
//!
//! Works against any Kubernetes API server with the rights kube-proxy has (services, endpointslices, nodes); pods and
//! namespaces make flows readable and carry the opt-out annotation, runtime classes tell sandboxed Pods, and their absence
//! is said in [`World::sources`].
//!
//! May not know: BPF, maps, packets, or what anybody does with a `World`.
#![forbid(unsafe_code)]

mod cache;
mod changes;
mod extract;
mod intern;
mod sandbox;
mod watch;
mod world;

pub use cache::{Cache, Change};
pub use changes::{Changed, changed};
pub use extract::{Extract, HEADLESS, LB_ALGORITHM, SERVICE_PROXY_NAME, SOCKET_LB_ANNOTATION};
pub use sandbox::{OptOut, Sandboxes};
pub use watch::{DEBOUNCE, Scope, watch};
pub use world::{
    Endpoint, EndpointPort, EndpointSlice, Hints, HostPort, Kind, LbOwner, Namespace, Node, ObjectName, Pod, Protocol,
    Rare, RuntimeClass, Service, ServicePort, ServiceType, Services, SessionAffinity, SlicesByService, Source,
    SourceState, TrafficPolicy, World,
};
