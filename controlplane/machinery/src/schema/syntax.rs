//! Says what is wrong with broken JSON in the words of Go's scanner. Only run on bodies already known to be broken.

/// The first syntax error; none if Go would take the text.
pub(super) fn error(text: &[u8]) -> Option<String> {
    let mut scanner = Scanner { text, at: 0 };
    match scanner.document() {
        Ok(()) => None,
        Err(why) => Some(match scanner.text.get(scanner.at) {
            None => "unexpected end of JSON input".into(),
            Some(b) => format!("invalid character {} {why}", quote_char(text, scanner.at, *b)),
        }),
    }
}

fn quote_char(text: &[u8], at: usize, byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".into(),
        b'"' => "'\"'".into(),
        b'\n' => r"'\n'".into(),
        b'\r' => r"'\r'".into(),
        b'\t' => r"'\t'".into(),
        b'\\' => r"'\\'".into(),
        0x20..=0x7e => format!("'{}'", byte as char),
        0..=0x1f | 0x7f => format!("'\\x{byte:02x}'"),
        // Go shows the byte as the rune of that number.
        _ => format!("'{}'", char::from(text.get(at).copied().unwrap_or(byte))),
    }
}

struct Scanner<'a> {
    text: &'a [u8],
    at: usize,
}

type Scan = Result<(), String>;

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn fail(&self, why: &str) -> Scan {
        Err(why.into())
    }

    fn document(&mut self) -> Scan {
        // Containers still open, innermost last: true for an object. No recursion, so that depth is no danger.
        let mut open: Vec<bool> = Vec::new();
        self.space();
        loop {
            // A value begins here.
            match self.peek() {
                Some(b'{') => {
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(b'}') {
                        self.at += 1;
                    } else {
                        open.push(true);
                        self.key("looking for beginning of object key string")?;
                        continue;
                    }
                }
                Some(b'[') => {
                    self.at += 1;
                    self.space();
                    if self.peek() == Some(b']') {
                        self.at += 1;
                    } else {
                        open.push(false);
                        continue;
                    }
                }
                _ => self.scalar()?,
            }
            // A value ended here: close what it ends, and find the next one.
            loop {
                self.space();
                match (open.last(), self.peek()) {
                    (None, None) => return Ok(()),
                    (None, Some(_)) => return self.fail("after top-level value"),
                    (Some(true), Some(b'}')) | (Some(false), Some(b']')) => {
                        self.at += 1;
                        open.pop();
                    }
                    (Some(true), Some(b',')) => {
                        self.at += 1;
                        self.space();
                        self.key("looking for beginning of object key string")?;
                        break;
                    }
                    (Some(false), Some(b',')) => {
                        self.at += 1;
                        self.space();
                        break;
                    }
                    (Some(true), _) => return self.fail("after object key:value pair"),
                    (Some(false), _) => return self.fail("after array element"),
                }
            }
        }
    }

    /// A key and its colon, up to the value.
    fn key(&mut self, why: &str) -> Scan {
        if self.peek() != Some(b'"') {
            return self.fail(why);
        }
        self.string()?;
        self.space();
        if self.peek() != Some(b':') {
            return self.fail("after object key");
        }
        self.at += 1;
        self.space();
        Ok(())
    }

    fn scalar(&mut self) -> Scan {
        match self.peek() {
            Some(b'"') => self.string(),
            Some(b't') => self.literal("true"),
            Some(b'f') => self.literal("false"),
            Some(b'n') => self.literal("null"),
            Some(b'-' | b'0'..=b'9') => self.number(),
            _ => self.fail("looking for beginning of value"),
        }
    }

    fn literal(&mut self, word: &str) -> Scan {
        for b in word.bytes() {
            if self.peek() != Some(b) {
                return Err(format!("in literal {word} (expecting '{}')", b as char));
            }
            self.at += 1;
        }
        Ok(())
    }

    fn string(&mut self) -> Scan {
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at += 1;
                    match self.peek() {
                        Some(b'u') => {
                            for _ in 0..4 {
                                self.at += 1;
                                if !self.peek().is_some_and(|b| b.is_ascii_hexdigit()) {
                                    return self.fail("in \\u hexadecimal character escape");
                                }
                            }
                            self.at += 1;
                        }
                        Some(b'b' | b'f' | b'n' | b'r' | b't' | b'\\' | b'/' | b'"') => self.at += 1,
                        _ => return self.fail("in string escape code"),
                    }
                }
                Some(0..=0x1f) | None => return self.fail("in string literal"),
                Some(_) => self.at += 1,
            }
        }
    }

    fn number(&mut self) -> Scan {
        let digits = |s: &mut Self| {
            let start = s.at;
            while s.peek().is_some_and(|b| b.is_ascii_digit()) {
                s.at += 1;
            }
            s.at > start
        };
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => {
                if !digits(self) {
                    return self.fail("in numeric literal");
                }
            }
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            if !digits(self) {
                return self.fail("after decimal point in numeric literal");
            }
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            if !digits(self) {
                return self.fail("in exponent of numeric literal");
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_gos() {
        for (text, message) in [
            ("{nope", "invalid character 'n' looking for beginning of object key string"),
            ("", "unexpected end of JSON input"),
            ("{\"a\"", "unexpected end of JSON input"),
            ("{\"a\" 1}", "invalid character '1' after object key"),
            ("{\"a\":1 \"b\"}", "invalid character '\"' after object key:value pair"),
            ("{\"a\":1,}", "invalid character '}' looking for beginning of object key string"),
            ("[1 2]", "invalid character '2' after array element"),
            ("[1,]", "invalid character ']' looking for beginning of value"),
            ("nul!", "invalid character '!' in literal null (expecting 'l')"),
            ("\"a\nb\"", "invalid character '\\n' in string literal"),
            ("\"\\x\"", "invalid character 'x' in string escape code"),
            ("1.x", "invalid character 'x' after decimal point in numeric literal"),
            ("{} {}", "invalid character '{' after top-level value"),
            ("\u{00cf}", "invalid character 'Ã' looking for beginning of value"),
        ] {
            assert_eq!(error(text.as_bytes()).as_deref(), Some(message), "{text}");
        }
        for text in ["{}", "[]", " {\"a\": [1, -0.5e+3, true, null, \"\\u00e9\"]} ", "3"] {
            assert_eq!(error(text.as_bytes()), None, "{text}");
        }
    }
}
