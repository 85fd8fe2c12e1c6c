//! strake-dns
