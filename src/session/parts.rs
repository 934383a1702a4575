//! A module's text in parts, so that an agent keeps the ones that come again.
//!
//! Ansible sends each module as a Python text of 160 KB: code that is the same for all of them, one base64 string of a zip file that
//! is the same for every task of a module, and the task's own arguments.

use std::ops::Range;

use sha2::{Digest, Sha256};

use super::key::hex;
use crate::wire::message::{Blob, Part};

/// The shortest part that is worth a hash.
const SHORTEST: usize = 4 << 10;

/// Where the code ends and the arguments begin, since ansible-core 2.19.
const CALL: &[u8] = b"\n\n\nif __name__ == \"__main__\":\n    _ansiballz_main(\n";

/// The text as an agent is asked to run it.
pub(super) struct Parts {
    /// In order.
    pub(super) parts: Vec<Part>,
    /// Where the kept ones are, in the same order.
    kept: Vec<Range<usize>>,
}

impl Parts {
    /// Cuts `text` where the code ends, and around long runs of base64.
    pub(super) fn of(text: &[u8]) -> Self {
        let mut cut = Self { parts: Vec::new(), kept: Vec::new() };
        let mut from = memchr::memmem::rfind(text, CALL).unwrap_or(0);
        cut.add(text, 0..from);
        let mut at = from;
        while at < text.len() {
            let run = text[at..].iter().take_while(|byte| is_base64(**byte)).count();
            if run >= SHORTEST {
                cut.add(text, from..at);
                cut.add(text, at..at + run);
                from = at + run;
            }
            at += run + 1;
        }
        cut.add(text, from..text.len());
        cut
    }

    fn add(&mut self, text: &[u8], range: Range<usize>) {
        let bytes = &text[range.clone()];
        if bytes.len() >= SHORTEST {
            let (sha256, length) = (hex(&Sha256::digest(bytes)), bytes.len() as u64);
            self.parts.push(Part::Kept { sha256, length });
            self.kept.push(range);
        } else if !bytes.is_empty() {
            self.parts.push(Part::Text { text: Blob(bytes.to_vec()) });
        }
    }

    /// The bytes of the kept part number `index`, counted over the kept ones.
    pub(super) fn kept<'t>(&self, text: &'t [u8], index: usize) -> Option<&'t [u8]> {
        Some(&text[self.kept.get(index)?.clone()])
    }
}

fn is_base64(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'/' | b'=')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn joined(text: &[u8], cut: &Parts) -> Vec<u8> {
        let mut kept = 0;
        let mut whole = Vec::new();
        for part in &cut.parts {
            match part {
                Part::Text { text } => whole.extend_from_slice(&text.0),
                Part::Kept { sha256, length } => {
                    let bytes = cut.kept(text, kept).unwrap();
                    assert_eq!((hex(&Sha256::digest(bytes)), bytes.len() as u64), (sha256.clone(), *length));
                    whole.extend_from_slice(bytes);
                    kept += 1;
                }
            }
        }
        assert_eq!(cut.kept(text, kept), None);
        whole
    }

    #[test]
    fn what_differs_by_task_is_inline() {
        let (code, zip) = ("x = 1\n".repeat(2000), "QUJD".repeat(30_000));
        let call = "\n\n\nif __name__ == \"__main__\":\n    _ansiballz_main(\n";
        let text = |params: &str| format!("{code}{call}zip_data='{zip}', params='{params}')\n").into_bytes();
        let (one, two) = (text("a"), text("b"));
        let cut = Parts::of(&one);
        let [Part::Kept { length, .. }, Part::Text { .. }, Part::Kept { .. }, Part::Text { .. }] =
            &cut.parts[..]
        else {
            panic!("{:?}", cut.parts);
        };
        assert_eq!(*length, code.len() as u64);
        assert_eq!(cut.parts[..3], Parts::of(&two).parts[..3]);
        // Before 2.19 the code and what follows it are one.
        assert_eq!(Parts::of(&one[code.len()..][call.len()..]).parts[1], cut.parts[2]);
        assert_eq!(joined(&one, &cut), one);
    }

    proptest! {
        #[test]
        fn the_parts_are_the_text(runs in prop::collection::vec((any::<u8>(), 0_usize..9000), 0..6)) {
            let text: Vec<u8> = runs.into_iter().flat_map(|(byte, count)| vec![byte; count]).collect();
            prop_assert_eq!(joined(&text, &Parts::of(&text)), text);
        }
    }
}
