//! `$(VAR)` expansion of commands, arguments, env values and subPathExpr (the syntax of core/v1 Container.command).
//! Pure.

/// Replaces `$(NAME)` by `lookup(NAME)`; an unknown name stays as written, `$$` is a literal `$`.
pub fn expand<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> String {
    let mut out = String::with_capacity(input.len());
    let mut rest = input;
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        let tail = &rest[at + 1..];
        if let Some(after) = tail.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some(inner) = tail.strip_prefix('(')
            && let Some(end) = inner.find(')')
        {
            let name = &inner[..end];
            match lookup(name) {
                Some(value) => out.push_str(value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = &inner[end + 1..];
        } else {
            out.push('$');
            rest = tail;
        }
    }
    out.push_str(rest);
    out
}

/// Like [`expand`], but an unknown name is an error (subPathExpr).
pub fn expand_strict<'a>(input: &str, lookup: impl Fn(&str) -> Option<&'a str>) -> Result<String, String> {
    let missing = std::cell::RefCell::new(None);
    let out = expand(input, |name| {
        let found = lookup(name);
        if found.is_none() {
            missing.borrow_mut().get_or_insert_with(|| name.to_owned());
        }
        found
    });
    match missing.into_inner() {
        Some(name) => Err(format!("missing value for \"{name}\"")),
        None => Ok(out),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vars(name: &str) -> Option<&'static str> {
        match name {
            "A" => Some("1"),
            "EMPTY" => Some(""),
            _ => None,
        }
    }

    #[test]
    fn references_escapes_and_broken_syntax() {
        for (input, want) in [
            ("x$(A)y", "x1y"),
            ("$(A)$(A)", "11"),
            ("$$(A)", "$(A)"),
            ("$$$(A)", "$1"),
            ("$(B)", "$(B)"),
            ("$(EMPTY)", ""),
            ("$(A", "$(A"),
            ("$A", "$A"),
            ("end$", "end$"),
            ("$$", "$"),
            ("", ""),
        ] {
            assert_eq!(expand(input, vars), want, "{input}");
        }
        assert_eq!(expand_strict("$(A)/$(B)", vars), Err("missing value for \"B\"".into()));
    }
}
