//! A real server on a port of its own, over the embedded store, driven by kube-rs and by raw HTTP.

mod objects;
mod server;
mod streams;
mod watches;
mod wire;
