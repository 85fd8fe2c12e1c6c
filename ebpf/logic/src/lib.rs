//! strake-logic
