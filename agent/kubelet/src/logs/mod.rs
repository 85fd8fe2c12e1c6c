//! Container logs: the CRI line format, reading and following, rotation.

pub mod follow;
pub mod format;
pub mod rotate;
