//! strake-kubelet
