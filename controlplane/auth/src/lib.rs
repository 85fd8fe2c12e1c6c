//! strake-auth
