//! What the built-in kinds are made of: fields, types, protobuf numbers, merge keys, list types.
//!
//! The facts are in `kinds.txt`, which `cargo xtask codegen` writes; it is embedded and read once, on first use.
//!
//! ```text
//! @io.k8s.api.core.v1                package; its index is its position
//! =Container                         message; "T" it has apiVersion and kind, "a" it is replaced whole when applied
//! name 1 s!-                         field, protobuf number, type and marks: "!" required, "*" a pointer in Go,
//!                                    "-" written even when zero; then, in any order,
//! ports 6 [9.ContainerPort k:containerPort p:merge l:map:containerPort,protocol
//!                                    k: merge key   p: patch strategy   l: list type and map keys
//!                                    a  the field is replaced whole, g it is not although its type is
//!                                    d: default, JSON, to the end of the line
//! ^volumeSource 2 9.VolumeSource     a message in protobuf whose fields appear beside the others in JSON
//! ```
//!
//! Types: `s` string, `b` bool, `i` int32, `l` int64, `d` double, `y` bytes, `t` Time, `u` MicroTime,
//! `q` Quantity, `x` IntOrString, `r` RawExtension, `F` FieldsV1, `J` any JSON, `V` ExtraValue (strings), `B` `A` `S`
//! JSONSchemaProps or bool, or array, or strings; `N.Name` message of package N; `[` list of, `{` map from string to.

mod body;
mod decode;
mod load;
mod syntax;

use std::collections::HashMap;
use std::sync::OnceLock;

pub use body::{Body, parse_json};
pub use decode::{
    Decoded, Misfit, decode_json, decode_json_as, decode_value, decode_value_as, normalize, normalize_as, prune,
    strict_error, unknown_fields, unknown_fields_as,
};

pub(crate) use decode::{JSON_SCHEMA_PROPS, omitted, zero};

use crate::registry::Kind;

/// Index of a message in the schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId(u32);

/// The type of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Type {
    String,
    Bool,
    Int32,
    Int64,
    Double,
    Bytes,
    Time,
    MicroTime,
    Quantity,
    IntOrString,
    RawExtension,
    FieldsV1,
    /// Any JSON value.
    Json,
    /// A list of strings that is a message in protobuf.
    ExtraValue,
    SchemaOrBool,
    SchemaOrArray,
    SchemaOrStrings,
    Message(MessageId),
    List(Box<Type>),
    /// From string to this.
    Map(Box<Type>),
}

/// How server-side apply treats a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListType {
    Atomic,
    Set,
    /// Items are told apart by [`Field::map_keys`].
    Map,
}

/// A field of a message.
#[derive(Debug, Clone)]
pub struct Field {
    /// Name in JSON; for an inlined message its name in protobuf.
    pub name: &'static str,
    /// Number in protobuf; 0 is not on that wire (apiVersion, kind).
    pub number: u32,
    pub ty: Type,
    pub required: bool,
    /// Zero differs from absent.
    pub pointer: bool,
    /// Written even when zero.
    pub always: bool,
    /// Its fields appear beside the others in JSON.
    pub inline: bool,
    pub merge_key: Option<&'static str>,
    /// Strategic merge: items merge instead of being replaced.
    pub merge: bool,
    /// Strategic merge: fields the patch does not name are dropped.
    pub retain_keys: bool,
    /// Strategic merge: the whole value is replaced.
    pub replace: bool,
    pub list_type: Option<ListType>,
    pub map_keys: Vec<&'static str>,
    /// Server-side apply treats the object as one value.
    pub atomic: bool,
    /// Server-side apply looks into the object, whatever its message says.
    pub granular: bool,
    /// JSON text of the declared default.
    pub default: Option<&'static str>,
}

/// A message: an object with known fields.
#[derive(Debug)]
pub struct Message {
    /// `io.k8s.api.core.v1.Container`.
    pub name: String,
    /// `Container`.
    pub short: &'static str,
    /// It has apiVersion and kind.
    pub top_level: bool,
    /// Server-side apply treats it as one value.
    pub atomic: bool,
    /// In protobuf's shape: inlined messages are one field.
    pub fields: Vec<Field>,
    /// In JSON's shape, sorted by name: the message that declares the field, and its place there.
    json: Vec<(&'static str, MessageId, usize)>,
}

/// Every message. [`Schema::get`] is the only one there is.
#[derive(Debug)]
pub struct Schema {
    messages: Vec<Message>,
    by_name: HashMap<String, MessageId>,
}

static TYPE_META: [Field; 2] = [load::type_meta("apiVersion"), load::type_meta("kind")];

impl Schema {
    /// The schema of the built-in kinds.
    pub fn get() -> &'static Schema {
        static SCHEMA: OnceLock<Schema> = OnceLock::new();
        SCHEMA.get_or_init(|| load::load(include_str!("kinds.txt")))
    }

    /// The message of a full name, `io.k8s.api.core.v1.Pod`.
    pub fn message(&self, name: &str) -> Option<&Message> {
        self.by_name.get(name).map(|id| self.get_message(*id))
    }

    /// The message of a kind's objects; none for custom resources.
    pub fn of_kind(&self, kind: &Kind) -> Option<&Message> {
        self.message(&kind.schema)
    }

    pub fn get_message(&self, id: MessageId) -> &Message {
        &self.messages[id.0 as usize]
    }

    pub fn messages(&self) -> &[Message] {
        &self.messages
    }

    /// The field of this name in JSON, with the message that declares it (another one if it was inlined).
    pub fn json_field(
        &'static self,
        message: &'static Message,
        name: &str,
    ) -> Option<(&'static Message, &'static Field)> {
        match message.json.binary_search_by(|(n, ..)| (*n).cmp(name)) {
            Ok(i) => {
                let (_, owner, at) = message.json[i];
                let owner = self.get_message(owner);
                Some((owner, &owner.fields[at]))
            }
            Err(_) if message.top_level => TYPE_META.iter().find(|f| f.name == name).map(|f| (message, f)),
            Err(_) => None,
        }
    }

    /// All fields as JSON shows them, inlined ones included, sorted by name; apiVersion and kind are not among them.
    pub fn json_fields(&'static self, message: &'static Message) -> impl Iterator<Item = &'static Field> {
        message.json.iter().map(|(_, owner, at)| &self.get_message(*owner).fields[*at])
    }
}

/// `v1.Container`: a message as Go's errors name it.
pub(crate) fn go_name(message: &Message) -> String {
    let mut parts = message.name.rsplit('.');
    let name = parts.next().unwrap_or_default();
    format!("{}.{name}", parts.next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Registry;

    #[test]
    fn every_built_in_kind_and_subresource_has_a_message() {
        let schema = Schema::get();
        for kind in Registry::builtin().kinds() {
            let message = schema.of_kind(kind).unwrap_or_else(|| panic!("{} has none", kind.schema));
            assert!(message.top_level, "{}", kind.schema);
            if kind.stored {
                assert!(schema.message(&format!("{}List", kind.schema)).is_some(), "{}List", kind.schema);
            }
        }
        for name in ["DeleteOptions", "CreateOptions", "PatchOptions", "UpdateOptions", "ListOptions", "Status"] {
            assert!(schema.message(&format!("io.k8s.apimachinery.pkg.apis.meta.v1.{name}")).is_some(), "{name}");
        }
        for name in ["policy.v1.Eviction", "autoscaling.v1.Scale", "authentication.v1.TokenRequest"] {
            assert!(schema.message(&format!("io.k8s.api.{name}")).is_some(), "{name}");
        }
    }

    #[test]
    fn fields_know_their_numbers_and_merge_keys() {
        let schema = Schema::get();
        let container = schema.message("io.k8s.api.core.v1.Container").unwrap();
        let (_, ports) = schema.json_field(container, "ports").unwrap();
        assert_eq!((ports.number, ports.merge_key, ports.merge), (6, Some("containerPort"), true));
        assert_eq!(ports.list_type, Some(ListType::Map));
        assert_eq!(ports.map_keys, ["containerPort", "protocol"]);
        let Type::List(item) = &ports.ty else { panic!("{:?}", ports.ty) };
        let Type::Message(id) = **item else { panic!("{item:?}") };
        let (_, protocol) = schema.json_field(schema.get_message(id), "protocol").unwrap();
        assert_eq!(protocol.default, Some("\"TCP\""));
    }

    #[test]
    fn inlined_fields_are_found_beside_the_others() {
        let schema = Schema::get();
        let volume = schema.message("io.k8s.api.core.v1.Volume").unwrap();
        let (owner, field) = schema.json_field(volume, "emptyDir").unwrap();
        assert_eq!((owner.short, field.number), ("VolumeSource", 2));
        assert!(schema.json_field(volume, "volumeSource").is_none());
        let ephemeral = schema.message("io.k8s.api.core.v1.EphemeralContainer").unwrap();
        assert!(schema.json_field(ephemeral, "image").is_some());
        let pod = schema.message("io.k8s.api.core.v1.Pod").unwrap();
        assert_eq!(schema.json_field(pod, "kind").unwrap().1.number, 0);
    }
}
