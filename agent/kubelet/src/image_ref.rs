//! Image references (`[HOST[:PORT]/]PATH[:TAG][@DIGEST]`, the distribution grammar) and the pull policy. Pure.

/// A parsed reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageRef {
    /// Registry host with port, `docker.io` when none is named.
    pub registry: String,
    /// Repository path, `library/x` for short Docker Hub names.
    pub path: String,
    /// Tag; `latest` when neither tag nor digest is named.
    pub tag: Option<String>,
    /// Digest, `sha256:...`.
    pub digest: Option<String>,
}

/// Parses a reference; the error is the grammar's complaint in the stock words.
pub fn parse(image: &str) -> Result<ImageRef, String> {
    let invalid = || "invalid reference format".to_owned();
    if image.is_empty() || image.len() > 512 {
        return Err(invalid());
    }
    let (rest, digest) = match image.split_once('@') {
        Some((r, d)) => {
            let (algorithm, hex) = d.split_once(':').ok_or_else(invalid)?;
            let fine = !algorithm.is_empty() && hex.len() >= 32 && hex.bytes().all(|b| b.is_ascii_hexdigit());
            if !fine {
                return Err(invalid());
            }
            (r, Some(d.to_owned()))
        }
        None => (image, None),
    };
    let (name, tag) = match rest.rsplit_once(':') {
        Some((n, t)) if !t.contains('/') => {
            let head = t.as_bytes().first().is_some_and(|b| b.is_ascii_alphanumeric() || *b == b'_');
            let body = t.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
            if !head || !body || t.len() > 128 {
                return Err(invalid());
            }
            (n, Some(t.to_owned()))
        }
        _ => (rest, None),
    };
    let (registry, path) = match name.split_once('/') {
        Some((host, path)) if host.contains(['.', ':']) || host == "localhost" => (host.to_owned(), path.to_owned()),
        Some(_) => ("docker.io".to_owned(), name.to_owned()),
        None => ("docker.io".to_owned(), format!("library/{name}")),
    };
    let host_fine =
        registry.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b':' | b'[' | b']'));
    if path.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(format!("{}: repository name must be lowercase", invalid()));
    }
    let component = |c: &str| {
        let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        edge(c.as_bytes().first())
            && edge(c.as_bytes().last())
            && c.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-'))
    };
    if !host_fine || registry.is_empty() || !path.split('/').all(component) {
        return Err(invalid());
    }
    let tag = if tag.is_none() && digest.is_none() { Some("latest".to_owned()) } else { tag };
    Ok(ImageRef { registry, path, tag, digest })
}

impl ImageRef {
    /// What credentials are looked up by: host and path.
    pub fn repository(&self) -> String {
        format!("{}/{}", self.registry, self.path)
    }
}

/// Whether an image is pulled although it is on the node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PullPolicy {
    /// Always.
    Always,
    /// Only when absent.
    IfNotPresent,
    /// Not even then.
    Never,
}

/// The policy named, else the API's default by tag.
pub fn policy(named: Option<&str>, image: &ImageRef) -> PullPolicy {
    match named {
        Some("Always") => PullPolicy::Always,
        Some("Never") => PullPolicy::Never,
        Some("IfNotPresent") => PullPolicy::IfNotPresent,
        _ if image.digest.is_none() && image.tag.as_deref() == Some("latest") => PullPolicy::Always,
        _ => PullPolicy::IfNotPresent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_forms() {
        let r = parse("nginx").unwrap();
        assert_eq!((r.repository().as_str(), r.tag.as_deref()), ("docker.io/library/nginx", Some("latest")));
        let r = parse("localhost:5000/a/b:v1").unwrap();
        assert_eq!((r.registry.as_str(), r.path.as_str(), r.tag.as_deref()), ("localhost:5000", "a/b", Some("v1")));
        let d = format!("ghcr.io/x/y@sha256:{}", "a".repeat(64));
        let r = parse(&d).unwrap();
        assert_eq!((r.tag, r.registry.as_str()), (None, "ghcr.io"));
        assert_eq!(parse("a/b").unwrap().registry, "docker.io");
        for bad in ["", "A/b", "a b", "a:", "a@sha256:x", "-a", "a//b", "x:::y"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn only_latest_is_pulled_again_by_default() {
        assert_eq!(policy(None, &parse("a").unwrap()), PullPolicy::Always);
        assert_eq!(policy(None, &parse("a:v1").unwrap()), PullPolicy::IfNotPresent);
        assert_eq!(policy(Some("Never"), &parse("a").unwrap()), PullPolicy::Never);
    }
}
