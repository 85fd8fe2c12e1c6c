//! CRI configurations from Pods: sandbox, containers, their security and resources. Pure but for paths that are given.

pub mod container;
pub mod sandbox;
mod security;
