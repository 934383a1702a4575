//! What opens an agent, as a hash: who cannot name all of it cannot use the agent.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;

use sha2::{Digest, Sha256};

use crate::engine::Engine;

/// Variables that differ between two commands of one shell and mean nothing to an engine's client.
const VOLATILE: &[&str] = &["PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLUMNS", "LINES"];

/// Where and how this process would start an engine's client.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) env: BTreeMap<OsString, OsString>,
    pub(super) cwd: PathBuf,
    pub(super) umask: u32,
}

impl Place {
    /// This process's own.
    pub(super) fn here() -> Self {
        let env = std::env::vars_os().collect();
        let cwd = std::env::current_dir().unwrap_or_else(|_| "/".into());
        Self { env, cwd, umask: umask() }
    }

    fn significant(&self) -> Vec<(&OsString, &OsString)> {
        self.env.iter().filter(|(name, _)| VOLATILE.iter().all(|volatile| *name != volatile)).collect()
    }
}

/// Read, not set and set back: other threads of this process may be making files.
fn umask() -> u32 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"));
    line.and_then(|mask| u32::from_str_radix(mask.trim(), 8).ok()).unwrap_or(0o022)
}

/// Feeds what derives [`Hash`] to SHA-256: every length is part of it, so two different things never look alike. It holds within
/// one build, and so does a broker.
struct Fed(Sha256);

impl Hasher for Fed {
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
    fn finish(&self) -> u64 {
        unreachable!("the digest is taken instead")
    }
}

fn digest(value: &impl Hash) -> [u8; 32] {
    let mut fed = Fed(Sha256::new());
    value.hash(&mut fed);
    fed.0.finalize().into()
}

/// The hash of what names and opens a target, before the engine was asked for anything.
pub(super) fn identity(engine: &Engine, place: &Place) -> [u8; 32] {
    digest(&(engine, place.significant(), &place.cwd, place.umask))
}

/// `parts` under the broker's `salt`, in hexadecimal: nobody who sees it can try out what it was made of.
pub(super) fn keyed(salt: &str, identity: &[u8; 32], parts: &impl Hash) -> String {
    let inner = digest(&(salt, identity, parts));
    hex(&digest(&(salt, inner)))
}

pub(super) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Docker, Env, Kubectl};

    fn place(env: &[(&str, &str)]) -> Place {
        let env = env.iter().map(|(name, value)| (name.into(), value.into())).collect();
        Place { env, cwd: "/".into(), umask: 0o22 }
    }

    #[test]
    fn everything_that_opens_a_target_counts_and_nothing_else() {
        let docker = |user: &str, env: &[(&str, &str)]| {
            let env: Env = env.iter().map(|(n, v)| (n.as_bytes().to_vec(), v.as_bytes().to_vec())).collect();
            Engine::Docker(Docker {
                container: b"web".to_vec(),
                user: Some(user.into()),
                env,
                ..Docker::default()
            })
        };
        let kubectl =
            |token: &str| Engine::Kubectl(Kubectl { token: Some(token.into()), ..Kubectl::default() });
        let all = [
            identity(&docker("a", &[]), &place(&[])),
            identity(&docker("b", &[]), &place(&[])),
            identity(&docker("a", &[("A", "B")]), &place(&[])),
            identity(&docker("a", &[("AB", "")]), &place(&[])),
            identity(&docker("a", &[]), &place(&[("DOCKER_HOST", "x")])),
            identity(&docker("a", &[]), &Place { umask: 0o77, ..place(&[]) }),
            identity(&docker("a", &[]), &Place { cwd: "/tmp".into(), ..place(&[]) }),
            identity(&kubectl("a"), &place(&[])),
            identity(&kubectl("b"), &place(&[])),
        ];
        for (index, one) in all.iter().enumerate() {
            assert!(all[..index].iter().all(|other| other != one), "{index}");
        }
        assert_eq!(all[0], identity(&docker("a", &[]), &place(&[("PWD", "/x"), ("COLUMNS", "80")])));
    }

    #[test]
    fn a_key_needs_the_salt() {
        let (one, two) = (keyed("a", &[0; 32], &"line"), keyed("b", &[0; 32], &"line"));
        assert!(one != two && one.len() == 64);
        assert_ne!(keyed("a", &[0; 32], &("b", "c")), keyed("a", &[0; 32], &("bc", "")));
    }

    #[test]
    fn the_place_is_this_process() {
        let here = Place::here();
        assert_eq!(here.cwd, std::env::current_dir().unwrap());
        assert!(here.umask <= 0o777 && here.env.contains_key(std::ffi::OsStr::new("PATH")));
    }
}
