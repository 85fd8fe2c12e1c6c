//! A whole node: the kubelet with a real containerd and runc, in a mount and network namespace of its own, against an
//! API server double that lives in this process. Needs root, containerd and a static busybox; says so when one is missing.

#![expect(clippy::unwrap_used, reason = "a panic in a test is the report; helpers are no #[test] functions")]

mod api;
mod image;
mod room;
mod scenarios;
