//! strake-abi
