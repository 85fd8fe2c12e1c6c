//! strake-tests
