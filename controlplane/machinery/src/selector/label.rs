//! Label selectors, in the string form of queries (`a=b,c in (d,e),!f`) and the object form of specs
//! (`matchLabels`, `matchExpressions`).

use std::fmt;

use serde_json::{Map, Value, json};

use super::SelectorError;
use crate::names;
use crate::status::quote;

/// How a requirement compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operator {
    /// `=` or `==`.
    Equals,
    /// `!=`: absent or another value.
    NotEquals,
    In,
    /// Absent or none of the values.
    NotIn,
    Exists,
    DoesNotExist,
    GreaterThan,
    LessThan,
}

/// One condition on one label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Requirement {
    pub key: String,
    pub operator: Operator,
    /// Sorted; empty for `Exists` and `DoesNotExist`.
    pub values: Vec<String>,
}

impl Requirement {
    /// A checked requirement: key and values must be valid label syntax.
    pub fn new(key: &str, operator: Operator, mut values: Vec<String>) -> Result<Self, SelectorError> {
        if let Some(why) = names::qualified_name_errors(key).first() {
            return Err(SelectorError(format!("key: Invalid value: {}: {why}", quote(key))));
        }
        let fail = |why: &str| Err(SelectorError(format!("values: Invalid value: {}: {why}", json!(values))));
        match operator {
            Operator::In | Operator::NotIn if values.is_empty() => {
                return fail("for 'in', 'notin' operators, values set can't be empty");
            }
            Operator::Equals | Operator::NotEquals if values.len() != 1 => {
                return fail("exact-match compatibility requires one single value");
            }
            Operator::Exists | Operator::DoesNotExist if !values.is_empty() => {
                return fail("values set must be empty for exists and does not exist");
            }
            Operator::GreaterThan | Operator::LessThan => {
                if values.len() != 1 {
                    return fail("for 'Gt', 'Lt' operators, exactly one value is required");
                }
                if values[0].parse::<i64>().is_err() {
                    return Err(SelectorError(format!(
                        "values[0]: Invalid value: {}: for 'Gt', 'Lt' operators, the value must be an integer",
                        quote(&values[0])
                    )));
                }
            }
            _ => {}
        }
        for (i, value) in values.iter().enumerate() {
            if let Some(why) = names::label_value_errors(value).first() {
                return Err(SelectorError(format!("values[{i}][{key}]: Invalid value: {}: {why}", quote(value))));
            }
        }
        values.sort();
        values.dedup();
        Ok(Requirement { key: key.into(), operator, values })
    }

    /// Whether the labels satisfy it.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        let value = labels.and_then(|l| l.get(&self.key)).and_then(Value::as_str);
        let listed = |v: &str| self.values.binary_search_by(|x| x.as_str().cmp(v)).is_ok();
        match self.operator {
            Operator::Equals | Operator::In => value.is_some_and(listed),
            Operator::NotEquals | Operator::NotIn => !value.is_some_and(listed),
            Operator::Exists => value.is_some(),
            Operator::DoesNotExist => value.is_none(),
            Operator::GreaterThan | Operator::LessThan => {
                let bound = self.values.first().and_then(|v| v.parse::<i64>().ok());
                match (value.and_then(|v| v.parse::<i64>().ok()), bound) {
                    (Some(v), Some(b)) if self.operator == Operator::GreaterThan => v > b,
                    (Some(v), Some(b)) => v < b,
                    _ => false,
                }
            }
        }
    }
}

impl fmt::Display for Requirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let key = &self.key;
        let first = self.values.first().map(String::as_str).unwrap_or_default();
        match self.operator {
            Operator::Equals => write!(f, "{key}={first}"),
            Operator::NotEquals => write!(f, "{key}!={first}"),
            Operator::In => write!(f, "{key} in ({})", self.values.join(",")),
            Operator::NotIn => write!(f, "{key} notin ({})", self.values.join(",")),
            Operator::Exists => write!(f, "{key}"),
            Operator::DoesNotExist => write!(f, "!{key}"),
            Operator::GreaterThan => write!(f, "{key}>{first}"),
            Operator::LessThan => write!(f, "{key}<{first}"),
        }
    }
}

/// All requirements must hold; with none, everything matches, except for [`LabelSelector::nothing`].
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelSelector {
    requirements: Vec<Requirement>,
    nothing: bool,
}

impl LabelSelector {
    pub fn everything() -> Self {
        Self::default()
    }

    /// What a nil selector object means in most specs: no object at all.
    pub fn nothing() -> Self {
        LabelSelector { requirements: Vec::new(), nothing: true }
    }

    pub fn from_requirements(mut requirements: Vec<Requirement>) -> Self {
        requirements.sort_by(|a, b| a.key.cmp(&b.key));
        LabelSelector { requirements, nothing: false }
    }

    /// The string form. Errors are worded as upstream's `labels.Parse`.
    pub fn parse(text: &str) -> Result<Self, SelectorError> {
        Ok(Self::from_requirements(Parser::new(text).selector()?))
    }

    /// The object form (`metav1.LabelSelector`): null selects nothing, `{}` everything.
    pub fn from_object(selector: &Value) -> Result<Self, SelectorError> {
        let Some(selector) = selector.as_object() else {
            return Ok(Self::nothing());
        };
        let mut requirements = Vec::new();
        if let Some(labels) = selector.get("matchLabels").and_then(Value::as_object) {
            requirements.extend(Self::equalities(labels)?);
        }
        for e in selector.get("matchExpressions").and_then(Value::as_array).into_iter().flatten() {
            let operator = match e.get("operator").and_then(Value::as_str).unwrap_or_default() {
                "In" => Operator::In,
                "NotIn" => Operator::NotIn,
                "Exists" => Operator::Exists,
                "DoesNotExist" => Operator::DoesNotExist,
                other => {
                    return Err(SelectorError(format!("{} is not a valid label selector operator", quote(other))));
                }
            };
            let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
            let values = values.filter_map(Value::as_str).map(str::to_owned).collect();
            let key = e.get("key").and_then(Value::as_str).unwrap_or_default();
            requirements.push(Requirement::new(key, operator, values)?);
        }
        Ok(Self::from_requirements(requirements))
    }

    /// A map selector (Service, ReplicationController): every label must be equal. An empty map selects everything.
    pub fn from_map(labels: &Map<String, Value>) -> Self {
        Self::from_requirements(
            labels
                .iter()
                .map(|(key, value)| Requirement {
                    key: key.clone(),
                    operator: Operator::Equals,
                    values: vec![value.as_str().unwrap_or_default().to_owned()],
                })
                .collect(),
        )
    }

    fn equalities(labels: &Map<String, Value>) -> Result<Vec<Requirement>, SelectorError> {
        labels
            .iter()
            .map(|(k, v)| Requirement::new(k, Operator::Equals, vec![v.as_str().unwrap_or_default().to_owned()]))
            .collect()
    }

    /// Whether an object's labels (`meta::labels(..)`) match.
    pub fn matches(&self, labels: Option<&Map<String, Value>>) -> bool {
        !self.nothing && self.requirements.iter().all(|r| r.matches(labels))
    }

    /// Whether it matches everything.
    pub fn is_everything(&self) -> bool {
        !self.nothing && self.requirements.is_empty()
    }

    pub fn is_nothing(&self) -> bool {
        self.nothing
    }

    pub fn requirements(&self) -> &[Requirement] {
        &self.requirements
    }
}

impl fmt::Display for LabelSelector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, r) in self.requirements.iter().enumerate() {
            if i > 0 {
                f.write_str(",")?;
            }
            write!(f, "{r}")?;
        }
        Ok(())
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    End,
    Close,
    Comma,
    DoesNotExist,
    DoubleEquals,
    Equals,
    GreaterThan,
    In,
    LessThan,
    NotEquals,
    NotIn,
    Open,
    Identifier,
}

/// Upstream's lexer and recursive descent, so that what is refused is refused with the same words.
struct Parser<'a> {
    tokens: Vec<(Token, &'a str)>,
    at: usize,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let mut tokens = Vec::new();
        let bytes = text.as_bytes();
        let special = |b: u8| matches!(b, b'=' | b'!' | b'(' | b')' | b',' | b'>' | b'<');
        let space = |b: u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
        let mut i = 0;
        while i < bytes.len() {
            if space(bytes[i]) {
                i += 1;
                continue;
            }
            let start = i;
            if special(bytes[i]) {
                // The longest run of special characters that is a token.
                let mut best = None;
                let mut end = i;
                while end < bytes.len() && special(bytes[end]) {
                    end += 1;
                    match (symbol(&text[start..end]), &best) {
                        (Some(token), _) => best = Some((token, end)),
                        (None, Some(_)) => break,
                        (None, None) => {}
                    }
                }
                let (token, end) = best.unwrap_or((Token::Identifier, end));
                tokens.push((token, &text[start..end]));
                i = end;
            } else {
                while i < bytes.len() && !special(bytes[i]) && !space(bytes[i]) {
                    i += 1;
                }
                let word = &text[start..i];
                let token = match word {
                    "in" => Token::In,
                    "notin" => Token::NotIn,
                    _ => Token::Identifier,
                };
                tokens.push((token, word));
            }
        }
        tokens.push((Token::End, ""));
        Parser { tokens, at: 0 }
    }

    /// The next token; where values or keys are expected, `in` and `notin` are plain words.
    fn peek(&self, values: bool) -> (Token, &'a str) {
        let (token, text) = self.tokens.get(self.at).cloned().unwrap_or((Token::End, ""));
        match token {
            Token::In | Token::NotIn if values => (Token::Identifier, text),
            _ => (token, text),
        }
    }

    fn next(&mut self, values: bool) -> (Token, &'a str) {
        let t = self.peek(values);
        self.at += 1;
        t
    }

    fn selector(&mut self) -> Result<Vec<Requirement>, SelectorError> {
        let mut requirements = Vec::new();
        loop {
            match self.peek(true) {
                (Token::Identifier | Token::DoesNotExist, _) => {
                    let r =
                        self.requirement().map_err(|e| SelectorError(format!("unable to parse requirement: {e}")))?;
                    requirements.push(r);
                    match self.next(true) {
                        (Token::End, _) => return Ok(requirements),
                        (Token::Comma, _) => match self.peek(true) {
                            (Token::Identifier | Token::DoesNotExist, _) => {}
                            (_, text) => {
                                return Err(SelectorError(format!("found '{text}', expected: identifier after ','")));
                            }
                        },
                        (_, text) => {
                            return Err(SelectorError(format!("found '{text}', expected: ',' or 'end of string'")));
                        }
                    }
                }
                (Token::End, _) => return Ok(requirements),
                (_, text) => {
                    return Err(SelectorError(format!("found '{text}', expected: !, identifier, or 'end of string'")));
                }
            }
        }
    }

    fn requirement(&mut self) -> Result<Requirement, SelectorError> {
        let (mut token, mut key) = self.next(true);
        let mut operator = None;
        if token == Token::DoesNotExist {
            operator = Some(Operator::DoesNotExist);
            (token, key) = self.next(true);
        }
        if token != Token::Identifier {
            return Err(SelectorError(format!("found '{key}', expected: identifier")));
        }
        if let Some(why) = names::qualified_name_errors(key).first() {
            return Err(SelectorError(format!("key: Invalid value: {}: {why}", quote(key))));
        }
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            return Requirement::new(key, operator.unwrap_or(Operator::Exists), Vec::new());
        }
        let operator = match self.next(false) {
            (Token::In, _) => Operator::In,
            (Token::NotIn, _) => Operator::NotIn,
            (Token::Equals | Token::DoubleEquals, _) => Operator::Equals,
            (Token::NotEquals, _) => Operator::NotEquals,
            (Token::GreaterThan, _) => Operator::GreaterThan,
            (Token::LessThan, _) => Operator::LessThan,
            (_, text) => {
                return Err(SelectorError(format!("found '{text}', expected: in, notin, =, ==, !=, gt, lt")));
            }
        };
        let values = match operator {
            Operator::In | Operator::NotIn => self.values()?,
            _ => vec![self.exact_value()?],
        };
        Requirement::new(key, operator, values)
    }

    fn values(&mut self) -> Result<Vec<String>, SelectorError> {
        match self.next(true) {
            (Token::Open, _) => {}
            (_, text) => return Err(SelectorError(format!("found '{text}' expected: '('"))),
        }
        match self.peek(true) {
            (Token::Identifier | Token::Comma, _) => {
                let values = self.identifiers()?;
                match self.next(true) {
                    (Token::Close, _) => Ok(values),
                    (_, text) => Err(SelectorError(format!("found '{text}', expected: ')'"))),
                }
            }
            (Token::Close, _) => {
                self.next(true);
                Ok(Vec::new())
            }
            (_, text) => Err(SelectorError(format!("found '{text}', expected: ',', ')' or identifier"))),
        }
    }

    fn identifiers(&mut self) -> Result<Vec<String>, SelectorError> {
        let mut values = Vec::new();
        loop {
            match self.next(true) {
                (Token::Identifier, text) => {
                    values.push(text.to_owned());
                    match self.peek(true) {
                        (Token::Comma, _) => {}
                        (Token::Close, _) => return Ok(values),
                        (_, text) => return Err(SelectorError(format!("found '{text}', expected: ',' or ')'"))),
                    }
                }
                (Token::Comma, _) => {
                    // An empty value before, between or after commas.
                    if values.is_empty() {
                        values.push(String::new());
                    }
                    match self.peek(true).0 {
                        Token::Close => {
                            values.push(String::new());
                            return Ok(values);
                        }
                        Token::Comma => {
                            self.next(true);
                            values.push(String::new());
                        }
                        _ => {}
                    }
                }
                (_, text) => return Err(SelectorError(format!("found '{text}', expected: ',', or identifier"))),
            }
        }
    }

    fn exact_value(&mut self) -> Result<String, SelectorError> {
        if matches!(self.peek(true).0, Token::End | Token::Comma) {
            return Ok(String::new());
        }
        match self.next(true) {
            (Token::Identifier, text) => Ok(text.to_owned()),
            (_, text) => Err(SelectorError(format!("found '{text}', expected: identifier"))),
        }
    }
}

fn symbol(text: &str) -> Option<Token> {
    Some(match text {
        ")" => Token::Close,
        "," => Token::Comma,
        "!" => Token::DoesNotExist,
        "==" => Token::DoubleEquals,
        "=" => Token::Equals,
        ">" => Token::GreaterThan,
        "<" => Token::LessThan,
        "!=" => Token::NotEquals,
        "(" => Token::Open,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn labels(v: Value) -> Map<String, Value> {
        v.as_object().unwrap().clone()
    }

    #[test]
    fn every_operator_selects_as_upstream() {
        let x = labels(json!({"app": "web", "tier": "1", "example.com/a": ""}));
        for (selector, expected) in [
            ("", true),
            ("app=web", true),
            ("app==web", true),
            ("app!=web", false),
            ("nope!=web", true),
            ("app in (web, db)", true),
            ("app in (db)", false),
            ("app notin (db)", true),
            ("nope notin (db)", true),
            ("nope in (db,)", false),
            ("app", true),
            ("!app", false),
            ("!nope", true),
            ("tier>0", true),
            ("tier<1", false),
            ("example.com/a=", true),
            ("example.com/a", true),
            ("app=web,tier in (1,2),!nope", true),
            ("app=web,tier in (2)", false),
            ("  app = web , tier ", true),
            ("in in (in)", false),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap().matches(Some(&x)), expected, "{selector}");
        }
        assert!(LabelSelector::parse("!a").unwrap().matches(None));
    }

    #[test]
    fn what_cannot_be_read_is_refused_with_upstreams_words() {
        for (selector, message) in [
            ("a===b", "unable to parse requirement: found '=', expected: identifier"),
            ("a,", "found '', expected: identifier after ','"),
            ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
            ("a in b", "unable to parse requirement: found 'b' expected: '('"),
            ("(", "found '(', expected: !, identifier, or 'end of string'"),
        ] {
            assert_eq!(LabelSelector::parse(selector).unwrap_err().to_string(), message, "{selector}");
        }
        assert!(LabelSelector::parse("a=c d").is_err());
        assert!(LabelSelector::parse("-a=b").unwrap_err().0.contains("key: Invalid value: \"-a\""));
    }

    #[test]
    fn selector_objects_select() {
        let x = labels(json!({"app": "web"}));
        let all = LabelSelector::from_object(&json!({})).unwrap();
        assert!(all.matches(Some(&x)) && all.is_everything());
        assert!(!LabelSelector::from_object(&Value::Null).unwrap().matches(Some(&x)));
        let s = LabelSelector::from_object(&json!({
            "matchLabels": {"app": "web"},
            "matchExpressions": [{"key": "tier", "operator": "DoesNotExist"},
                {"key": "app", "operator": "In", "values": ["web", "api"]}],
        }))
        .unwrap();
        assert!(s.matches(Some(&x)));
        assert_eq!(s.to_string(), "app=web,app in (api,web),!tier");
        let bad = json!({"matchExpressions": [{"key": "a", "operator": "Near"}]});
        assert_eq!(LabelSelector::from_object(&bad).unwrap_err().0, "\"Near\" is not a valid label selector operator");
    }

    #[test]
    fn printing_and_parsing_are_inverse() {
        for text in ["a=b", "a!=b", "a in (b,c)", "a notin (b,c)", "a", "!a", "a>1", "a<1", "a=b,c=d"] {
            assert_eq!(LabelSelector::parse(text).unwrap().to_string(), text);
        }
    }
}
