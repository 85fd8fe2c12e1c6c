//! strake-controllers
