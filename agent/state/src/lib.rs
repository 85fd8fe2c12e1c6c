//! strake-state
