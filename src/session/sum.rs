//! The sum that proves a transfer, taken on both sides.

use crc_fast::{CrcAlgorithm, Digest};
use sha2::{Digest as _, Sha256};

/// How the container sums a file; the first is tried first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SumKind {
    /// POSIX `cksum`, 5 GB/s in coreutils.
    Cksum,
    /// `sha256sum`: some builds of busybox have no cksum.
    Sha256,
    /// Neither is there: by length alone, and said so.
    Length,
}

impl SumKind {
    /// The next way to try when the container does not have this one.
    pub fn next(self) -> Option<Self> {
        match self {
            Self::Cksum => Some(Self::Sha256),
            Self::Sha256 => Some(Self::Length),
            Self::Length => None,
        }
    }

    /// Shell functions: `c FILE` prints `SUM LENGTH`, `h` succeeds when the container can do that.
    pub(super) fn functions(self) -> &'static str {
        match self {
            Self::Cksum => r#"h(){ command -v cksum >/dev/null;};c(){ cksum <"$1";};"#,
            Self::Sha256 => {
                r#"h(){ command -v sha256sum >/dev/null&&command -v wc >/dev/null;};c(){ x=$(sha256sum <"$1")&&echo "${x%% *}" $(wc -c <"$1");};"#
            }
            Self::Length => r#"h(){ command -v wc >/dev/null;};c(){ echo - $(wc -c <"$1");};"#,
        }
    }
}

/// A sum over bytes as they pass.
#[derive(Debug)]
pub(super) struct Sum {
    state: State,
    length: u64,
}

#[derive(Debug)]
enum State {
    Cksum(Digest),
    Sha256(Sha256),
    Length,
}

impl Sum {
    pub(super) fn new(kind: SumKind) -> Self {
        let state = match kind {
            SumKind::Cksum => State::Cksum(Digest::new(CrcAlgorithm::Crc32Cksum)),
            SumKind::Sha256 => State::Sha256(Sha256::new()),
            SumKind::Length => State::Length,
        };
        Self { state, length: 0 }
    }

    pub(super) fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Cksum(digest) => digest.update(bytes),
            State::Sha256(digest) => digest.update(bytes),
            State::Length => {}
        }
        self.length += bytes.len() as u64;
    }

    /// Bytes seen so far.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// As the container's tool prints it; `-` for a length alone.
    pub(super) fn finish(self) -> String {
        match self.state {
            // cksum goes over the bytes and then over their count, least significant byte first, without leading zeros.
            State::Cksum(mut digest) => {
                let used = 8 - (self.length.leading_zeros() / 8) as usize;
                digest.update(&self.length.to_le_bytes()[..used]);
                digest.finalize().to_string()
            }
            State::Sha256(digest) => {
                digest.finalize().iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"))
            }
            State::Length => "-".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;
    use std::process::{Command, Stdio};

    /// `SUM LENGTH` from the host's own tools, through the functions that run in containers.
    fn tool(kind: SumKind, bytes: &[u8]) -> String {
        let program = format!("{}cat >$0; c $0; rm $0", kind.functions());
        let file = std::env::temp_dir().join(format!("gangway-sum-{}", crate::sys::nonce().unwrap()));
        let mut child = Command::new("/bin/sh")
            .args(["-c", &program, file.to_str().unwrap()])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap().trim().to_owned()
    }

    fn ours(kind: SumKind, bytes: &[u8]) -> String {
        let mut sum = Sum::new(kind);
        for part in bytes.chunks(1000) {
            sum.update(part);
        }
        let length = sum.length();
        format!("{} {length}", sum.finish())
    }

    #[test]
    fn sums_are_those_of_the_tools() {
        for kind in [SumKind::Cksum, SumKind::Sha256, SumKind::Length] {
            for bytes in [vec![], vec![0], b"123456789".to_vec(), vec![7; 65_536], vec![1; 300_000]] {
                assert_eq!(ours(kind, &bytes), tool(kind, &bytes));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_cksum_of_anything(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(ours(SumKind::Cksum, &bytes), tool(SumKind::Cksum, &bytes));
        }
    }
}
