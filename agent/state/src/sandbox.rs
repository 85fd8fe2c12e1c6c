//! Container runtimes whose Pods' sockets are not sockets of this kernel (gVisor, Kata): no socket hook sees them, and the
//! packet path is what serves their Pods.
//!
//! May not know: how a hook leaves a Pod alone.

use std::fmt;
use std::sync::Arc;

/// Handlers of RuntimeClasses, each a name in which one `*` stands for anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sandboxes(Vec<Arc<str>>);

impl Sandboxes {
    /// What the projects and the large providers call theirs.
    pub const USUAL: &'static str = "runsc*,gvisor*,kata*,*firecracker*,quark,urunc,kuasar-vmm";

    /// Those of a list.
    pub fn new(handlers: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        Self(handlers.into_iter().map(Into::into).filter(|handler: &Arc<str>| !handler.is_empty()).collect())
    }

    /// Whether Pods of this handler have sockets of their own.
    pub fn holds(&self, handler: &str) -> bool {
        self.0.iter().any(|pattern| matches(pattern, handler))
    }
}

impl Default for Sandboxes {
    fn default() -> Self {
        Self::new(Self::USUAL.split(','))
    }
}

/// Each part between two stars stands in `text`, in order; the first begins it, and the last ends it.
fn matches(pattern: &str, text: &str) -> bool {
    let Some((first, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        match text.split_once(part) {
            Some((_, after)) => text = after,
            None => return false,
        }
    }
    text.ends_with(last)
}

/// Why the socket hooks leave a Pod alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OptOut {
    /// Its own `strake.io/socket-lb: disabled`.
    Pod,
    /// Its namespace's.
    Namespace,
    /// Its runtime has sockets of its own.
    Runtime { class: Arc<str>, handler: Arc<str> },
}

impl fmt::Display for OptOut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pod => f.write_str("strake.io/socket-lb: disabled on the Pod"),
            Self::Namespace => f.write_str("strake.io/socket-lb: disabled on its namespace"),
            Self::Runtime { class, handler } => {
                write!(f, "runtime class {class}, whose handler {handler} has sockets of its own")
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_sandboxes_are_known_by_their_handlers_and_ordinary_runtimes_are_not() {
        let usual = Sandboxes::default();
        for handler in
            ["runsc", "runsc-kvm", "gvisor", "kata", "kata-qemu", "kata-fc", "aws.firecracker", "firecracker"]
        {
            assert!(usual.holds(handler), "{handler}");
        }
        for handler in ["runc", "crun", "youki", "nvidia", "spin", "sysbox-runc", "my-kata", ""] {
            assert!(!usual.holds(handler), "{handler}");
        }
    }

    #[test]
    fn a_star_stands_for_anything_and_a_name_without_one_for_itself() {
        let holds = |pattern: &str, handler: &str| Sandboxes::new([pattern]).holds(handler);
        assert!(holds("a*c", "abc") && holds("a*c", "ac") && !holds("a*c", "ab"));
        assert!(holds("*", "") && holds("*x*", "axb") && !holds("*x*", "ab"));
        assert!(holds("a", "a") && !holds("a", "ab"));
        assert!(!holds("ab*ba", "aba"), "the two ends may not be the same letters");
        assert!(!Sandboxes::new([""]).holds(""), "an empty list holds nobody");
    }
}
