//! strake-bpf-toolchain
