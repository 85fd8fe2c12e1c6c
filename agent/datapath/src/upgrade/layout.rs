//! Descriptions of maps that may be another version's: as text, compared, and what carries a row from one to the other.
//!
//! May not know: the kernel, which maps there are.

use std::fmt::{self, Write};
use std::str::FromStr;

use strake_abi::layout::{Field, MapLayout, Role};

/// A piece of a key or value that is no struct.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Names from the outside in, with dots.
    pub path: String,
    pub offset: usize,
    pub size: usize,
}

/// How a map's rows look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    pub role: Role,
    /// Another one is another meaning.
    pub tag: u32,
    pub key: Vec<Leaf>,
    pub value: Vec<Leaf>,
}

fn flatten(fields: &[Field], prefix: &str, base: usize, out: &mut Vec<Leaf>) {
    for field in fields {
        let path = if prefix.is_empty() { field.name.to_owned() } else { format!("{prefix}.{}", field.name) };
        let offset = base + field.offset;
        if field.inner.is_empty() {
            out.push(Leaf { path, offset, size: field.size });
        } else {
            flatten(field.inner, &path, offset, out);
        }
    }
}

impl From<&MapLayout> for Layout {
    fn from(map: &MapLayout) -> Self {
        let (mut key, mut value) = (Vec::new(), Vec::new());
        flatten(map.key, "", 0, &mut key);
        flatten(map.value, "", 0, &mut value);
        Self { role: map.role, tag: map.tag, key, value }
    }
}

impl Layout {
    /// Where a field of the value is.
    pub fn field(&self, path: &str) -> Option<&Leaf> {
        self.value.iter().find(|leaf| leaf.path == path)
    }
}

/// `node 1|@0+4|flags@4+4 ...`
impl fmt::Display for Layout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let role = match self.role {
            Role::Node => "node",
            Role::State => "state",
            Role::Counter => "counter",
            Role::Passing => "passing",
        };
        write!(f, "{role} {}", self.tag)?;
        for leaves in [&self.key, &self.value] {
            f.write_char('|')?;
            for (index, Leaf { path, offset, size }) in leaves.iter().enumerate() {
                let space = if index == 0 { "" } else { " " };
                write!(f, "{space}{path}@{offset}+{size}")?;
            }
        }
        Ok(())
    }
}

/// A description that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no description of a map: {0:?}")]
pub struct Unreadable(String);

impl FromStr for Layout {
    type Err = Unreadable;

    fn from_str(text: &str) -> Result<Self, Unreadable> {
        let parse = || {
            let mut parts = text.split('|');
            let (role, tag) = parts.next()?.split_once(' ')?;
            let role = match role {
                "node" => Role::Node,
                "state" => Role::State,
                "counter" => Role::Counter,
                "passing" => Role::Passing,
                _ => return None,
            };
            let leaf = |text: &str| {
                let (path, place) = text.split_once('@')?;
                let (offset, size) = place.split_once('+')?;
                Some(Leaf { path: path.to_owned(), offset: offset.parse().ok()?, size: size.parse().ok()? })
            };
            let mut leaves = || parts.next()?.split_whitespace().map(leaf).collect::<Option<Vec<_>>>();
            Some(Self { role, tag: tag.parse().ok()?, key: leaves()?, value: leaves()? })
        };
        parse().ok_or_else(|| Unreadable(text.to_owned()))
    }
}

/// Which bytes of a row go where in another version's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conversion {
    key: Vec<(usize, usize, usize)>,
    value: Vec<(usize, usize, usize)>,
    key_size: usize,
    value_size: usize,
}

impl Conversion {
    /// From rows of `from` to rows of `to`, which has keys and values of these sizes. A field that `from` lacks becomes zero,
    /// which every field means as "off" or "none"; one that `to` lacks is left out. None: it cannot be done, because keys
    /// have other fields, a field of one name has another size, nothing is shared, or the same names mean another thing.
    pub fn new(from: &Layout, to: &Layout, key_size: usize, value_size: usize) -> Option<Self> {
        if from.tag != to.tag {
            return None;
        }
        // Unused bytes are zero on both sides, wherever they are.
        let counts = |leaf: &&Leaf| leaf.path.rsplit('.').next() != Some("reserved");
        let pieces = |from: &[Leaf], to: &[Leaf]| -> Option<Vec<(usize, usize, usize)>> {
            let mut pieces = Vec::new();
            for leaf in to.iter().filter(counts) {
                match from.iter().find(|old| old.path == leaf.path) {
                    Some(old) if old.size == leaf.size => pieces.push((old.offset, leaf.offset, leaf.size)),
                    Some(_) => return None,
                    None => {}
                }
            }
            Some(pieces)
        };
        let key = pieces(&from.key, &to.key)?;
        let whole = |leaves: &[Leaf]| leaves.iter().filter(counts).count();
        if key.len() != whole(&to.key) || key.len() != whole(&from.key) {
            return None;
        }
        let value = pieces(&from.value, &to.value)?;
        let fits = |pieces: &[(usize, usize, usize)], room| pieces.iter().all(|(_, to, len)| to + len <= room);
        let possible = !value.is_empty() && fits(&key, key_size) && fits(&value, value_size);
        possible.then_some(Self { key, value, key_size, value_size })
    }

    pub fn key(&self, from: &[u8]) -> Vec<u8> {
        convert(&self.key, self.key_size, from)
    }

    pub fn value(&self, from: &[u8]) -> Vec<u8> {
        convert(&self.value, self.value_size, from)
    }
}

fn convert(pieces: &[(usize, usize, usize)], size: usize, from: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; size];
    for (source, target, len) in pieces {
        if let Some(piece) = from.get(*source..*source + *len) {
            bytes[*target..*target + *len].copy_from_slice(piece);
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use strake_abi::conntrack::{CONNTRACK, Conntrack, ConntrackKey, Tuple};
    use strake_abi::{Addr4, Port, layout};

    fn of(name: &str) -> Layout {
        layout::MAPS.iter().find(|map| map.name == name).unwrap().into()
    }

    /// With eight bytes more at the front of the value.
    fn moved(layout: &Layout) -> Layout {
        let mut moved = layout.clone();
        moved.value.iter_mut().for_each(|leaf| leaf.offset += 8);
        moved.value.insert(0, Leaf { path: "later".into(), offset: 0, size: 8 });
        moved
    }

    #[test]
    fn every_map_is_told_and_read_back() {
        for map in &layout::MAPS {
            let (layout, text) = (Layout::from(map), Layout::from(map).to_string());
            assert_eq!(text.parse::<Layout>().unwrap(), layout, "{text}");
        }
        assert!("state 1|a@0".parse::<Layout>().is_err());
    }

    #[test]
    fn a_row_is_carried_there_and_back() {
        let own = of(CONNTRACK);
        let later = moved(&own);
        let (up, down) =
            (Conversion::new(&own, &later, 16, 72).unwrap(), Conversion::new(&later, &own, 16, 64).unwrap());
        let tuple = Tuple { src: Addr4(1), dst: Addr4(2), sport: Port::new(3), dport: Port::new(4) };
        let row = Conntrack { to: tuple, packets: 77, cookie: 88, ..Conntrack::default() };
        let bytes = |row: &Conntrack| -> Vec<u8> {
            own.value.iter().fold(vec![0; 64], |mut out, leaf| {
                let value: u64 = match leaf.path.as_str() {
                    "to.src" => row.to.src.0.into(),
                    "to.dst" => row.to.dst.0.into(),
                    "to.sport" => row.to.sport.0.into(),
                    "to.dport" => row.to.dport.0.into(),
                    "packets" => row.packets,
                    "cookie" => row.cookie,
                    _ => 0,
                };
                out[leaf.offset..leaf.offset + leaf.size].copy_from_slice(&value.to_ne_bytes()[..leaf.size]);
                out
            })
        };
        let before = bytes(&row);
        let after = up.value(&before);
        assert_eq!((&after[..8], &after[8..]), (&[0; 8][..], &before[..]));
        assert_eq!(down.value(&after), before);
        assert_eq!(up.key(&[7; 16])[..14], [7; 14]);
        assert_eq!(size_of::<ConntrackKey>(), 16);
    }

    #[test]
    fn what_means_something_else_is_not_carried() {
        let own = of(CONNTRACK);
        let other = Layout { tag: 2, ..own.clone() };
        assert_eq!(Conversion::new(&own, &other, 16, 64), None);
        let mut wider = own.clone();
        wider.value[1].size += 1;
        assert_eq!(Conversion::new(&own, &wider, 16, 72), None, "a field of another size");
        let mut key = own.clone();
        key.key.push(Leaf { path: "zone".into(), offset: 16, size: 4 });
        assert_eq!(Conversion::new(&own, &key, 20, 64), None, "a key of more fields");
        assert_eq!(Conversion::new(&key, &own, 16, 64), None, "or of fewer: rows would become one");
    }
}
