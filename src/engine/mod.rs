//! What is particular to each engine: options become command lines, and the engine's own failures become errors.
//!
//! Pure: nothing here starts a process or reads a file, so each engine is tested as a table.

pub mod docker;
pub mod kubectl;
pub mod podman;
#[cfg(test)]
mod properties;
pub mod runc;
pub mod user;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;

pub use docker::Docker;
pub use kubectl::Kubectl;
pub use podman::Podman;
pub use runc::Runc;

use crate::error::{Error, Result, shown};
use crate::transport::cli::CommandLine;

/// Environment variables, in an order that does not change.
pub type Env = BTreeMap<Vec<u8>, Vec<u8>>;

/// One container, named through one engine.
#[derive(Clone, Debug, Hash)]
#[expect(clippy::large_enum_variant, reason = "a session has one")]
pub enum Engine {
    /// `runc exec` and runtimes with the same command line.
    Runc(Runc),
    /// `docker exec`.
    Docker(Docker),
    /// `podman exec`.
    Podman(Podman),
    /// `kubectl exec`.
    Kubectl(Kubectl),
}

/// How an engine's client ended that never started the command.
#[derive(Debug, Default)]
pub struct Refusal<'a> {
    /// Exit status; `None` when a signal ended it.
    pub code: Option<i32>,
    /// What it wrote to stdout.
    pub stdout: &'a [u8],
    /// What it wrote to stderr.
    pub stderr: &'a [u8],
    /// What it wrote to its log file (runc).
    pub log: &'a [u8],
}

/// What the shell in the container does before the command, because the engine cannot.
#[derive(Clone, Copy, Debug, Default)]
pub struct Prelude<'a> {
    /// Variables to export; they travel over stdin, never on a command line.
    pub env: Option<&'a Env>,
    /// Directory to change to.
    pub working_dir: Option<&'a [u8]>,
}

impl Engine {
    /// The variable prefix of this engine's options: `ansible_<name>_…`.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Runc(_) => "runc",
            Self::Docker(_) => "docker",
            Self::Podman(_) => "podman",
            Self::Kubectl(_) => "kubectl",
        }
    }

    /// The container as a user knows it: `docker container "web"`.
    pub fn target(&self) -> String {
        match self {
            Self::Runc(runc) => runc.target(),
            Self::Docker(docker) => docker.target(),
            Self::Podman(podman) => podman.target(),
            Self::Kubectl(kubectl) => kubectl.target(),
        }
    }

    /// The command line that runs `command` in the container, with stdin attached or not.
    pub fn exec(&self, command: &[Vec<u8>], stdin: bool) -> Result<CommandLine> {
        match self {
            Self::Runc(runc) => runc.exec(command),
            Self::Docker(docker) => docker.exec(command, stdin),
            Self::Podman(podman) => podman.exec(command, stdin),
            Self::Kubectl(kubectl) => kubectl.exec(command, stdin),
        }
    }

    /// True when output is lost where a command leaves some of its stdin unread.
    pub fn loses_output_with_unread_stdin(&self) -> bool {
        matches!(self, Self::Podman(_))
    }

    /// The same container, entered as root; `None` where this is so already, or where the engine cannot.
    pub fn as_root(&self) -> Option<Self> {
        let root = || Some(b"0".to_vec());
        match self {
            Self::Runc(runc) => runc.as_root().map(Self::Runc),
            Self::Docker(docker) => Some(Self::Docker(Docker { user: root(), ..docker.clone() })),
            Self::Podman(podman) => Some(Self::Podman(Podman { user: root(), ..podman.clone() })),
            Self::Kubectl(_) => None,
        }
    }

    /// What the container's shell must do itself.
    pub fn prelude(&self) -> Prelude<'_> {
        match self {
            Self::Runc(_) | Self::Docker(_) | Self::Podman(_) => Prelude::default(),
            Self::Kubectl(kubectl) => kubectl.prelude(),
        }
    }

    /// The command line that asks for the container's state.
    pub fn state(&self) -> Result<CommandLine> {
        match self {
            Self::Runc(runc) => runc.state(),
            Self::Docker(docker) => Ok(docker.state()),
            Self::Podman(podman) => Ok(podman.state()),
            Self::Kubectl(kubectl) => kubectl.state(),
        }
    }

    /// The container's state in one word of the engine's own, from what [`Engine::state`] printed.
    pub fn parse_state(&self, stdout: &[u8]) -> Option<String> {
        match self {
            Self::Runc(_) => runc::State::parse(stdout).map(|state| state.status),
            Self::Docker(_) | Self::Podman(_) | Self::Kubectl(_) => {
                let word = String::from_utf8_lossy(stdout).trim().to_ascii_lowercase();
                (!word.is_empty()).then_some(word)
            }
        }
    }

    /// Why the engine's client ended although the command never started.
    pub fn refusal(&self, refusal: &Refusal<'_>) -> Error {
        match self {
            Self::Runc(runc) => runc.refusal(refusal),
            Self::Docker(docker) => docker.refusal(refusal),
            Self::Podman(podman) => podman.refusal(refusal),
            Self::Kubectl(kubectl) => kubectl.refusal(refusal),
        }
    }

    /// The error for a container that is in `state`, with what to do about it.
    pub fn not_running(&self, state: &str) -> Error {
        let remedy = match self {
            Self::Runc(runc) => runc.remedy(state),
            Self::Docker(docker) => docker.remedy(state),
            Self::Podman(podman) => podman.remedy(state),
            Self::Kubectl(_) => "see `kubectl describe pod` for the reason".to_owned(),
        };
        Error::NotRunning { target: self.target(), state: state.to_owned(), remedy }
    }
}

/// Splits a line of extra arguments as a shell does.
pub(crate) fn extra_args(target: &str, option: &'static str, line: &[u8]) -> Result<Vec<Vec<u8>>> {
    let mut words = shlex::bytes::Shlex::new(line);
    let split: Vec<Vec<u8>> = words.by_ref().collect();
    if words.had_error {
        let reason = "it has an unclosed quote or ends in a backslash: quote it as for a shell".to_owned();
        return Err(Error::Option { target: target.to_owned(), option, reason });
    }
    Ok(split)
}

/// Refuses a name that the engine's client would take for a flag, or for nothing.
pub(crate) fn check_name(target: &str, option: &'static str, name: &[u8]) -> Result<()> {
    let reason = if name.is_empty() {
        "it is empty"
    } else if name.starts_with(b"-") {
        "it begins with a dash"
    } else if name.contains(&0) {
        "it contains a NUL byte"
    } else {
        return Ok(());
    };
    Err(Error::Option { target: target.to_owned(), option, reason: format!("{reason}: name the container") })
}

/// The longest a variable can be, with its name, `=` and an end: `MAX_ARG_STRLEN` of Linux with pages of 4 KiB.
const LONGEST_VARIABLE: usize = 128 << 10;

/// Refuses a variable that no environment can hold.
pub(crate) fn check_env(target: &str, env: &Env) -> Result<()> {
    for (name, value) in env {
        let shown = shown(name);
        let reason = if name.is_empty()
            || name.iter().any(|byte| matches!(byte, 0 | b'=') || byte.is_ascii_whitespace())
            || value.contains(&0)
        {
            format!("{shown:?} is no name and value for an environment variable")
        } else if name.len() + value.len() + 2 > LONGEST_VARIABLE {
            format!("{shown} is longer than the 128 KiB that an environment variable can have")
        } else {
            continue;
        };
        return Err(Error::Option { target: target.to_owned(), option: "extra_env", reason });
    }
    Ok(())
}

/// Adds `env` to a `docker exec` or `podman exec` without showing a value on its command line.
///
/// Values go through a file that only the client can open; what that file cannot hold (a line break, a line of 64 KiB, a name that
/// looks like a comment) through the client's own environment, unless its name begins like one of the client's `own` variables.
pub(crate) fn add_env(target: &str, line: &mut CommandLine, env: &Env, own: &[&str]) -> Result<()> {
    // Where a line of the file is cut: bufio.MaxScanTokenSize of Go.
    const LONGEST_LINE: usize = 64 << 10;
    let (mut file, mut inherited) = (Vec::new(), Vec::new());
    for (name, value) in env {
        if [name, value].iter().any(|text| std::str::from_utf8(text).is_err()) {
            // The clients speak JSON: other bytes would arrive changed.
            let reason = format!("{} is not UTF-8 text, and the engine takes nothing else", shown(name));
            return Err(Error::Option { target: target.to_owned(), option: "extra_env", reason });
        }
        if value.iter().any(|byte| matches!(byte, b'\n' | b'\r'))
            || name.len() + value.len() + 2 > LONGEST_LINE
            || name.starts_with(b"#")
        {
            inherited.push((name, value));
        } else {
            file.extend_from_slice(&[name.as_slice(), b"=", value, b"\n"].concat());
        }
    }
    if !file.is_empty() {
        let path = held(target, line.hold(&file))?;
        line.argv.extend(["--env-file".into(), path]);
    }
    for (name, value) in inherited {
        if own.iter().any(|own| name.starts_with(own.as_bytes())) {
            let reason = format!(
                "a value of several lines, or of 64 KiB, for {} would change the engine's client itself",
                shown(name)
            );
            return Err(Error::Option { target: target.to_owned(), option: "extra_env", reason });
        }
        line.argv.extend(["--env".into(), os(name.clone())]);
        line.env.push((os(name.clone()), os(value.clone())));
    }
    Ok(())
}

pub(crate) fn os(bytes: impl Into<Vec<u8>>) -> OsString {
    OsString::from_vec(bytes.into())
}

pub(crate) fn held(target: &str, result: io::Result<OsString>) -> Result<OsString> {
    result.map_err(|source| Error::Stream { target: target.to_owned(), source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn extra_arguments_are_split_as_a_shell_does() {
        let split = extra_args("t", "docker_extra_args", b"--config '/a b/c' -H \"x\"").unwrap();
        assert_eq!(split, [b"--config".as_slice(), b"/a b/c", b"-H", b"x"]);
        let error = extra_args("t", "docker_extra_args", b"--config '/a b").unwrap_err();
        assert!(
            error.to_string().contains("docker_extra_args cannot be used: it has an unclosed quote"),
            "{error}"
        );
    }

    #[test]
    fn names_that_are_flags_are_refused() {
        for name in [b"".as_slice(), b"-rm", b"a\0b"] {
            assert!(check_name("t", "remote_addr", name).is_err());
        }
        assert!(check_name("t", "remote_addr", b"web-1").is_ok());
    }

    #[test]
    fn variables_that_no_environment_holds_are_refused() {
        let check = |name: &[u8], length: usize| {
            check_env("t", &Env::from([(name.to_vec(), vec![b'x'; length])]))
                .map_err(|error| error.to_string())
        };
        for name in [b"".as_slice(), b"A=B", b"A B", b"A\0"] {
            assert!(check(name, 1).unwrap_err().contains("is no name and value"));
        }
        assert!(check(b"NAME", (128 << 10) - 6).is_ok());
        assert!(check(b"NAME", (128 << 10) - 5).unwrap_err().contains("NAME is longer than the 128 KiB"));
    }

    #[test]
    fn what_an_env_file_cannot_hold_is_inherited() {
        let mut env = Env::from([(b"#A".to_vec(), b"1".to_vec()), (b"PLAIN".to_vec(), b" 2 ".to_vec())]);
        env.insert(b"JUST".to_vec(), vec![b'x'; (64 << 10) - 6]);
        env.insert(b"LONG".to_vec(), vec![b'x'; (64 << 10) - 5]);
        env.insert(b"CR".to_vec(), b"3\r".to_vec());
        let mut line = CommandLine::default();
        add_env("t", &mut line, &env, &["DOCKER_"]).unwrap();
        let names: Vec<_> = line.env.iter().map(|(name, _)| name.to_str().unwrap()).collect();
        assert_eq!(names, ["#A", "CR", "LONG"]);
        let file = line.held[0].contents(1 << 20).unwrap();
        assert!(file.starts_with(b"JUST=xxx") && file.ends_with(b"x\nPLAIN= 2 \n"));
        let binary = Env::from([(b"A".to_vec(), vec![0xff])]);
        let error = add_env("t", &mut line, &binary, &[]).unwrap_err().to_string();
        assert!(error.contains("extra_env cannot be used: A is not UTF-8 text"), "{error}");
    }
}
