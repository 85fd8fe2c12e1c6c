//! The HTTP shell: listener and TLS, bodies, content negotiation, answers. It knows nothing of kinds or stores.

pub mod body;
pub mod compress;
pub mod listener;
pub mod negotiate;
pub mod respond;
