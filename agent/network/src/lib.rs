//! strake-network
