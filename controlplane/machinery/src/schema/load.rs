//! Reads `kinds.txt`. Its format is checked by the tests, so a line it cannot read is left out rather than a panic.

use std::collections::HashMap;

use super::{Field, ListType, Message, MessageId, Schema, Type};

pub(super) const fn type_meta(name: &'static str) -> Field {
    Field {
        name,
        number: 0,
        ty: Type::String,
        required: false,
        pointer: false,
        always: false,
        inline: false,
        merge_key: None,
        merge: false,
        retain_keys: false,
        replace: false,
        list_type: None,
        map_keys: Vec::new(),
        atomic: false,
        granular: false,
        default: None,
    }
}

pub(super) fn load(text: &'static str) -> Schema {
    let mut packages: Vec<&'static str> = Vec::new();
    let mut names: HashMap<(usize, &'static str), MessageId> = HashMap::new();
    let mut messages: Vec<Message> = Vec::new();
    let mut by_name = HashMap::new();
    // Names first: types refer forward.
    for line in text.lines() {
        if let Some(package) = line.strip_prefix('@') {
            packages.push(package);
        } else if let Some(head) = line.strip_prefix('=') {
            let (short, flags) = head.split_once(' ').unwrap_or((head, ""));
            let id = MessageId(messages.len() as u32);
            let package = packages.last().copied().unwrap_or_default();
            let name = format!("{package}.{short}");
            names.insert((packages.len().saturating_sub(1), short), id);
            by_name.insert(name.clone(), id);
            messages.push(Message {
                name,
                short,
                top_level: flags.contains('T'),
                atomic: flags.contains('a'),
                fields: Vec::new(),
                json: Vec::new(),
            });
        }
    }
    let mut current = None;
    for line in text.lines() {
        match line.as_bytes().first() {
            Some(b'@') | None => {}
            Some(b'=') => current = Some(current.map_or(0, |c| c + 1)),
            Some(_) => {
                if let (Some(at), Some(field)) = (current, field(line, &names)) {
                    messages[at].fields.push(field);
                }
            }
        }
    }
    for at in 0..messages.len() {
        let mut json = Vec::new();
        flatten(&messages, MessageId(at as u32), &mut json);
        json.sort_by(|a, b| a.0.cmp(b.0));
        messages[at].json = json;
    }
    Schema { messages, by_name }
}

fn flatten(messages: &[Message], id: MessageId, out: &mut Vec<(&'static str, MessageId, usize)>) {
    for (at, field) in messages[id.0 as usize].fields.iter().enumerate() {
        match &field.ty {
            Type::Message(inner) if field.inline => flatten(messages, *inner, out),
            _ => out.push((field.name, id, at)),
        }
    }
}

fn field(line: &'static str, names: &HashMap<(usize, &'static str), MessageId>) -> Option<Field> {
    let (name, inline) = match line.strip_prefix('^') {
        Some(rest) => (rest, true),
        None => (line, false),
    };
    let mut words = name.split(' ');
    let mut field = type_meta(words.next()?);
    field.inline = inline;
    field.number = words.next()?.parse().ok()?;
    let code = words.next()?;
    let type_code = code.trim_end_matches(['!', '*', '-']);
    let marks = &code[type_code.len()..];
    field.required = marks.contains('!');
    field.pointer = marks.contains('*');
    field.always = marks.contains('-');
    field.ty = type_of(type_code, names)?;
    for word in words {
        match word.split_once(':') {
            None if word == "a" => field.atomic = true,
            None if word == "g" => field.granular = true,
            Some(("k", key)) => field.merge_key = Some(key),
            Some(("p", strategy)) => {
                for s in strategy.split(',') {
                    match s {
                        "merge" => field.merge = true,
                        "retainKeys" => field.retain_keys = true,
                        "replace" => field.replace = true,
                        _ => {}
                    }
                }
            }
            Some(("l", list)) => {
                let (kind, keys) = list.split_once(':').unwrap_or((list, ""));
                field.list_type = match kind {
                    "atomic" => Some(ListType::Atomic),
                    "set" => Some(ListType::Set),
                    "map" => Some(ListType::Map),
                    _ => None,
                };
                field.map_keys = keys.split(',').filter(|k| !k.is_empty()).collect();
            }
            Some(("d", _)) => {
                field.default = line.split_once(" d:").map(|(_, json)| json);
                break;
            }
            _ => {}
        }
    }
    Some(field)
}

fn type_of(code: &'static str, names: &HashMap<(usize, &'static str), MessageId>) -> Option<Type> {
    if let Some(rest) = code.strip_prefix('[') {
        return Some(Type::List(Box::new(type_of(rest, names)?)));
    }
    if let Some(rest) = code.strip_prefix('{') {
        return Some(Type::Map(Box::new(type_of(rest, names)?)));
    }
    Some(match code {
        "s" => Type::String,
        "b" => Type::Bool,
        "i" => Type::Int32,
        "l" => Type::Int64,
        "d" => Type::Double,
        "y" => Type::Bytes,
        "t" => Type::Time,
        "u" => Type::MicroTime,
        "q" => Type::Quantity,
        "x" => Type::IntOrString,
        "r" => Type::RawExtension,
        "F" => Type::FieldsV1,
        "J" => Type::Json,
        "V" => Type::ExtraValue,
        "B" => Type::SchemaOrBool,
        "A" => Type::SchemaOrArray,
        "S" => Type::SchemaOrStrings,
        _ => {
            let (package, name) = code.split_once('.')?;
            Type::Message(*names.get(&(package.parse().ok()?, name))?)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_of_the_table_is_understood() {
        let text = include_str!("kinds.txt");
        let schema = load(text);
        let lines = text.lines().filter(|l| !l.starts_with(['@', '='])).count();
        assert_eq!(lines, schema.messages().iter().map(|m| m.fields.len()).sum::<usize>());
        for message in schema.messages() {
            let mut numbers: Vec<u32> = message.fields.iter().map(|f| f.number).collect();
            numbers.sort_unstable();
            numbers.dedup();
            assert_eq!(numbers.len(), message.fields.len(), "{} has a number twice", message.name);
            let mut names: Vec<_> = message.json.iter().map(|j| j.0).collect();
            names.dedup();
            assert_eq!(names.len(), message.json.len(), "{} has a name twice", message.name);
            for field in &message.fields {
                assert!(field.number > 0 && !field.name.is_empty(), "{}.{}", message.name, field.name);
                assert_eq!(field.list_type == Some(ListType::Map), !field.map_keys.is_empty());
                if let Some(default) = field.default {
                    assert!(serde_json::from_str::<serde_json::Value>(default).is_ok(), "{default}");
                }
            }
        }
    }
}
