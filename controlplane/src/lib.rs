//! strake-controlplane
