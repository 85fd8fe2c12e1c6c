//! strake-bpf-object
