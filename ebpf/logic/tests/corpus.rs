//! Every file of the corpus through its target, and thousands of mutations of it, the same ones in every run. What
//! libFuzzer (`cargo xtask fuzz`) finds is added to the corpus under a name that says what it broke.
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "the helpers of a test may panic as the tests do")]

mod targets;

use std::fs;
use std::path::Path;

/// Of each file.
const MUTATIONS: usize = 3_000;

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
        match self.below(6) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, self.below(256) as u8),
            2 => bytes.extend(std::iter::repeat_n(0x5a, self.below(64))),
            _ if bytes.is_empty() => {}
            3 => bytes[at] = self.below(256) as u8,
            4 => bytes[at] ^= 1 << self.below(8),
            // Numbers of protocols and headers, and ends of ranges.
            _ => bytes[at] = [0, 1, 6, 17, 43, 44, 51, 58, 60, 132, 0x3f, 0x40, 0x80, 0xc0, 0xff][self.below(15)],
        }
    }
}

#[test]
fn the_corpus_and_its_mutations_break_nothing() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (name, target) in targets::TARGETS {
        let mut files: Vec<_> = fs::read_dir(corpus.join(name)).unwrap().map(|e| e.unwrap().path()).collect();
        files.sort();
        assert!(files.len() >= 3, "the corpus of {name} is not there");
        let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
        for file in files {
            let seed = targets::from_hex(&fs::read_to_string(&file).unwrap());
            target(&seed);
            for _ in 0..MUTATIONS {
                let mut bytes = seed.clone();
                (0..=numbers.below(4)).for_each(|_| numbers.mutate(&mut bytes));
                target(&bytes);
            }
        }
    }
}
