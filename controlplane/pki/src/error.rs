//! Errors of keys, certificates and requests for them.

use std::{io, path::PathBuf};

pub type Result<T, E = Error> = std::result::Result<T, E>;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{doing} {}: {source}", path.display())]
    Io { doing: &'static str, path: PathBuf, source: io::Error },

    /// The file is there but is not what its name says.
    #[error("{} is not {expected}: {detail}", path.display())]
    Damaged { path: PathBuf, expected: &'static str, detail: String },

    #[error("issuing a certificate for {subject:?}: {detail}")]
    Issue { subject: String, detail: String },

    #[error("generating a key: {0}")]
    Generate(String),

    /// The bytes are not a certificate signing request, or its signature is wrong.
    #[error("the certificate signing request cannot be read: {0}")]
    Request(String),

    /// The request is well-formed, but its signer must not sign it.
    #[error("{signer} does not sign this request: {reason}")]
    Refused { signer: &'static str, reason: String },

    #[error("the certificate cannot be read: {0}")]
    Certificate(String),

    #[error("signing a ServiceAccount token: {0}")]
    Token(String),
}
