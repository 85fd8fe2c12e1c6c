//! strake-machinery
