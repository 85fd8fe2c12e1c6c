//! strake-flow
