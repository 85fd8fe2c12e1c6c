//! strake-strategy
