//! Every file of the corpus through its target, and thousands of mutations of it, the same ones in every run. What
//! libFuzzer (`cargo xtask fuzz`) finds is added to the corpus under a name that says what it broke.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "the helpers of a test may panic as the tests do")]

mod targets;

use std::fs;
use std::path::Path;

use serde_json::{Value, json};

/// Of each file.
const MUTATIONS: usize = 1_500;

/// Numbers as good as random, the same in every run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 33) as usize % end.max(1)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.below(bytes.len());
        match self.below(7) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.below(256) as u8),
            2 => bytes.extend(std::iter::repeat_n(b'9', self.below(64))),
            _ if bytes.is_empty() => {}
            3 => bytes[at] = self.below(256) as u8,
            4 => bytes[at] ^= 1 << self.below(8),
            5 => bytes[at] = b" :/|@=+-.,\n\0{9Z"[self.below(15)],
            _ => {
                let end = (at + self.below(32)).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }

    /// Changes values of a document, or moves them: what is no JSON any more is read by nobody.
    fn mutate_json(&mut self, document: &mut Value) {
        let mut places = Vec::new();
        pointers(document, String::new(), &mut places);
        let at = &places[self.below(places.len())];
        let odd = [
            json!(null),
            json!(""),
            json!("None"),
            json!("0.0.0.0"),
            json!("127.0.0.1"),
            json!("0.1.2.3"),
            json!("240.0.0.1"),
            json!("255.255.255.255"),
            json!("169.254.1.1"),
            json!("224.0.0.1"),
            json!("::"),
            json!("::1"),
            json!("fe80::1"),
            json!("::ffff:10.0.0.1"),
            json!("10.96.0.10"),
            json!("192.0.2.1"),
            json!(0),
            json!(-1),
            json!(65536),
            json!(80),
            json!(i32::MIN),
            json!("0.0.0.0/0"),
            json!("::/0"),
            json!("10.0.0.1/33"),
            json!("SCTP"),
            json!("UDP"),
            json!("Local"),
            json!("ClientIP"),
            json!("LoadBalancer"),
            json!("maglev"),
            json!("a.b"),
            json!("x".repeat(300)),
            json!([]),
            json!({}),
            json!(true),
            json!("n1"),
            json!("ExternalName"),
        ];
        let value = if self.below(3) == 0 {
            document.pointer(&places[self.below(places.len())]).unwrap().clone()
        } else {
            odd[self.below(odd.len())].clone()
        };
        if let Some(place) = document.pointer_mut(at) {
            *place = value;
        }
        if let Value::Array(list) = document
            && list.len() < 24
            && self.below(4) == 0
        {
            let copy = list.get(self.below(list.len())).cloned().unwrap_or_default();
            list.push(copy);
        }
    }
}

/// Where there are values, as JSON pointers.
fn pointers(value: &Value, at: String, into: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            list.iter().enumerate().for_each(|(index, value)| pointers(value, format!("{at}/{index}"), into));
        }
        Value::Object(fields) => fields.iter().for_each(|(name, value)| {
            pointers(value, format!("{at}/{}", name.replace('~', "~0").replace('/', "~1")), into);
        }),
        _ => {}
    }
    into.push(at);
}

/// Files `.hex` have two digits a byte and comments, others are as they are.
fn seed(path: &Path) -> Vec<u8> {
    let bytes = fs::read(path).unwrap();
    if path.extension().is_none_or(|extension| extension != "hex") {
        return bytes;
    }
    let text = String::from_utf8(bytes).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.flat_map(str::split_whitespace).map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn the_corpus_and_its_mutations_break_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let mut folders: Vec<_> = fs::read_dir(&corpus).unwrap().map(|e| e.unwrap().file_name()).collect();
    folders.sort();
    let mut names = targets::TARGETS.map(|(name, _)| name);
    names.sort_unstable();
    assert_eq!(folders, names);
    let broken: Vec<String> =
        targets::TARGETS.iter().filter_map(|(name, target)| first_broken(&corpus, name, *target)).collect();
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// What breaks a target first, in words.
fn first_broken(corpus: &Path, name: &str, target: fn(&[u8])) -> Option<String> {
    let mut files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
    files.sort();
    assert!(files.len() >= 2, "the corpus of {name} is not there");
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    for file in files {
        let seed = seed(&file);
        let check = |bytes: &[u8]| {
            let broken = std::panic::catch_unwind(|| target(bytes)).is_err();
            broken.then(|| format!("{name}, from {}:\n{}", file.display(), String::from_utf8_lossy(bytes)))
        };
        if let Some(broken) = check(&seed) {
            return Some(broken);
        }
        let document: Option<Value> = serde_json::from_slice(&seed).ok().filter(|v: &Value| !v.is_number());
        for round in 0..MUTATIONS {
            let mut bytes = seed.clone();
            if let Some(document) = document.as_ref().filter(|_| round % 4 != 0) {
                let mut document = document.clone();
                (0..=numbers.below(3)).for_each(|_| numbers.mutate_json(&mut document));
                bytes = serde_json::to_vec(&document).unwrap();
            } else {
                (0..=numbers.below(4)).for_each(|_| numbers.mutate(&mut bytes));
            }
            if let Some(broken) = check(&bytes) {
                return Some(broken);
            }
        }
    }
    None
}
