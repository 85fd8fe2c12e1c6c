//! strake-datapath
