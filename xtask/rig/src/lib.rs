//! strake-rig
