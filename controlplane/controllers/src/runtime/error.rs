//! The error of one attempt at a key: what was being done to what, and what the API answered.

/// Result of a sync step.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an attempt failed. All of them are retried with backoff by the queue.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A request was refused or did not get through.
    #[error("{doing}: {}", describe(.source))]
    Api {
        /// The act and its object, as in `creating ReplicaSet default/web-1`.
        doing: String,
        /// What the client reported.
        #[source]
        source: kube::Error,
    },
    /// Several of one kind of request failed; the first is kept.
    #[error("{failed} of {total} requests failed, first: {first}")]
    Several {
        /// How many failed.
        failed: usize,
        /// How many were tried.
        total: usize,
        /// The first failure.
        first: Box<Error>,
    },
    /// Something the object says cannot be acted on.
    #[error("{object}: {problem}")]
    Object {
        /// Kind and name.
        object: String,
        /// What is wrong with it.
        problem: String,
    },
}

/// The API's own message where there is one: shorter and more exact than the transport's.
pub fn describe(e: &kube::Error) -> String {
    match e {
        kube::Error::Api(status) => status.message.clone(),
        other => other.to_string(),
    }
}

impl Error {
    /// The API Status, if the server answered with one.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Error::Api { source: kube::Error::Api(s), .. } => Some(s),
            Error::Several { first, .. } => first.status(),
            _ => None,
        }
    }

    /// HTTP code of the answer; 0 when there was none.
    pub fn code(&self) -> u16 {
        self.status().map_or(0, |s| s.code)
    }

    /// The object is not there.
    pub fn is_not_found(&self) -> bool {
        self.code() == 404
    }

    /// The object changed since it was read, or its name is taken (409 covers both).
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|s| s.code == 409 && s.reason != "AlreadyExists")
    }

    /// A create met an object of that name.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(|s| s.code == 409 && s.reason == "AlreadyExists")
    }

    /// The namespace is being deleted: creating in it is pointless.
    pub fn is_namespace_terminating(&self) -> bool {
        self.status().is_some_and(|s| {
            s.code == 403
                && s.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating"))
        })
    }

    /// The first error of `results`, with the count, or Ok with how many there were.
    pub fn collect<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
        let total = results.len();
        let mut good = Vec::with_capacity(total);
        let (mut failed, mut first) = (0, None);
        for r in results {
            match r {
                Ok(v) => good.push(v),
                Err(e) => {
                    failed += 1;
                    first.get_or_insert(e);
                }
            }
        }
        match first {
            None => Ok(good),
            Some(first) if failed == 1 && total == 1 => Err(first),
            Some(first) => Err(Error::Several { failed, total, first: Box::new(first) }),
        }
    }
}

/// Names the act on the way out.
pub trait Doing<T> {
    /// Wraps a client error with what was being done.
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T> Doing<T> for std::result::Result<T, kube::Error> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| Error::Api { doing: what(), source })
    }
}
