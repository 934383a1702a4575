//! What can go wrong, one variant per step that failed.
//!
//! The text of an error is the sentence the user reads: what failed, for which container, why, and what to do.
//! [`Error::class`] says what Ansible makes of it. A command's own exit status is never an error.

use std::io;
use std::path::{Path, PathBuf};

/// What Ansible makes of an [`Error`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// The path to the container failed: the host is UNREACHABLE.
    Connection,
    /// A file that was to be read is not there.
    FileMissing,
    /// The step failed on a container that can be reached: the task is FAILED.
    Failed,
    /// A Python signal handler raised; its own exception goes on.
    Interrupted,
}

/// A step that failed. `target` names the container as the user knows it, `said` is the engine's own text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each variant's text says what its fields say")]
pub enum Error {
    #[error(
        "{target}: the executable {executable:?} was not found: install it, or name it in ansible_{engine}_executable"
    )]
    EngineMissing { target: String, engine: &'static str, executable: String },
    #[error("{target}: cannot run {executable:?}: {source}")]
    Spawn { target: String, executable: String, source: io::Error },
    #[error("{target}: talking to the engine's process failed: {source}")]
    Stream { target: String, source: io::Error },
    #[error("{target} does not exist ({said}): check its name, or start it first")]
    NoSuchContainer { target: String, said: String },
    #[error("{target} is {state}, not running: {remedy}")]
    NotRunning { target: String, state: String, remedy: String },
    #[error("{target}: the engine cannot be reached ({said}): check that it is up and where it listens")]
    EngineUnreachable { target: String, said: String },
    #[error("{target}: the engine refused access ({said}): ask for the permission, or use other credentials")]
    Forbidden { target: String, said: String },
    #[error(
        "{target}: the engine's client is configured wrongly ({said}): check the options of this connection and the client's own \
         configuration"
    )]
    Configuration { target: String, said: String },
    #[error(
        "{target}: the user {user:?} cannot be used ({said}): create it in the container, or set another remote_user"
    )]
    UnknownUser { target: String, user: String, said: String },
    #[error("{target}: the engine failed to start the command: {said}")]
    EngineFailed { target: String, said: String },
    #[error(
        "{target}: the engine did not start the command within {seconds} seconds and was ended; whether it ran is unknown: \
         check the engine, or raise container_timeout"
    )]
    StartTimeout { target: String, seconds: f64 },
    #[error(
        "{target}: the stream to the running command was lost ({said}); its outcome is unknown and it was not repeated"
    )]
    OutcomeUnknown { target: String, said: String },
    #[error(
        "{target}: no data moved for {seconds} seconds while {path:?} was transferred: check the engine and the network"
    )]
    Stalled { target: String, path: String, seconds: u64 },
    #[error(
        "{target}: it wrote more than {limit} bytes and was ended: have it write to a file, and fetch that"
    )]
    TooMuchOutput { target: String, limit: usize },
    #[error("{target}: timeout ({seconds} s) waiting for privilege escalation by {method}: {said}")]
    BecomeTimeout { target: String, method: String, seconds: f64, said: String },

    #[error(
        "{target} has no usable shell {shell:?} ({said}): every connection runs commands through a shell"
    )]
    NoShell { target: String, shell: String, said: String },
    #[error("{target}: working_dir {dir:?} cannot be entered: {said}")]
    WorkingDir { target: String, dir: String, said: String },
    #[error("{target}: {option} cannot be used: {reason}")]
    Option { target: String, option: &'static str, reason: String },
    #[error("Incorrect {method} password")]
    BecomeIncorrect { method: String },
    #[error("Missing {method} password")]
    BecomeMissing { method: String },
    #[error("{target}: cannot put {path:?}: {said}; nothing there was changed")]
    Put { target: String, path: String, said: String },
    #[error(
        "{target}: cannot put {path:?}, which had to be written in place: {said}; the file there may be incomplete"
    )]
    PutInPlace { target: String, path: String, said: String },
    #[error(
        "{target}: it has neither cksum, sha256sum nor wc, so no transfer can be verified: install one of them"
    )]
    Unverifiable { target: String },
    #[error("{target}: cannot fetch {path:?}: {said}")]
    Fetch { target: String, path: String, said: String },
    #[error(
        "{target}: the stream was lost while {path:?} was read ({said}): check the engine and the network"
    )]
    FetchLost { target: String, path: String, said: String },
    #[error("{target}: cannot fetch {path:?}: no such file in the container")]
    RemoteMissing { target: String, path: String },
    #[error("file or module does not exist: {}", path.display())]
    LocalMissing { path: PathBuf },
    #[error("{}: {source}", path.display())]
    Local { path: PathBuf, source: io::Error },
    #[error("no broker can be used: {said}")]
    NoBroker { said: String },
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// The sentence that the user reads. Names and texts of others are in it.
    pub fn sentence(&self) -> String {
        one_line(&self.to_string())
    }

    /// True when the engine did not start anything because the container is not there, or does not run.
    pub fn is_of_a_lost_place(&self) -> bool {
        matches!(self, Self::NoSuchContainer { .. } | Self::NotRunning { .. })
    }

    /// What Ansible makes of this error.
    pub fn class(&self) -> Class {
        match self {
            Self::EngineMissing { .. }
            | Self::Spawn { .. }
            | Self::Stream { .. }
            | Self::NoSuchContainer { .. }
            | Self::NotRunning { .. }
            | Self::EngineUnreachable { .. }
            | Self::Forbidden { .. }
            | Self::Configuration { .. }
            | Self::UnknownUser { .. }
            | Self::EngineFailed { .. }
            | Self::StartTimeout { .. }
            | Self::OutcomeUnknown { .. }
            | Self::FetchLost { .. }
            | Self::Stalled { .. }
            | Self::BecomeTimeout { .. } => Class::Connection,
            Self::RemoteMissing { .. } | Self::LocalMissing { .. } => Class::FileMissing,
            Self::Interrupted => Class::Interrupted,
            Self::NoShell { .. }
            | Self::WorkingDir { .. }
            | Self::TooMuchOutput { .. }
            | Self::Option { .. }
            | Self::BecomeIncorrect { .. }
            | Self::BecomeMissing { .. }
            | Self::Put { .. }
            | Self::PutInPlace { .. }
            | Self::Unverifiable { .. }
            | Self::Fetch { .. }
            | Self::Local { .. }
            | Self::NoBroker { .. } => Class::Failed,
        }
    }
}

/// The result of a step.
pub type Result<T> = std::result::Result<T, Error>;

/// Names the local path in the error of an operation on it.
pub(crate) fn local<T>(path: &Path, result: io::Result<T>) -> Result<T> {
    result.map_err(|source| Error::Local { path: path.to_owned(), source })
}

/// An engine's text as part of a sentence: its last lines that say something, without control characters, bounded.
///
/// A container and an engine are not trusted with the terminal: escape sequences do not pass.
pub fn said(text: &[u8]) -> String {
    const LONGEST: usize = 400;
    let text = String::from_utf8_lossy(text);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let joined = lines.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ");
    let mut clean: String = joined.chars().filter(|c| !is_obeyed(*c)).take(LONGEST).collect();
    if joined.chars().count() > LONGEST {
        clean.push('…');
    }
    let clean = clean.trim_end_matches(['.', ':', ' ']);
    if clean.is_empty() { "it said nothing".to_owned() } else { clean.to_owned() }
}

/// `text` as one line of bounded length; what a terminal would obey is spelled out.
pub fn one_line(text: &str) -> String {
    const LONGEST: usize = 4000;
    let mut line = String::with_capacity(text.len());
    for (count, c) in text.chars().enumerate() {
        if count == LONGEST {
            line.push('…');
            break;
        }
        if is_obeyed(c) {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

/// Control characters, line and paragraph separators, and what changes the direction of writing.
fn is_obeyed(c: char) -> bool {
    c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// Bytes that name something (a path, a user), for a sentence.
pub fn shown(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn said_is_one_bounded_line_without_escapes() {
        assert_eq!(said(b"Error: a\r\n\nb\x1b[31mred.\n"), "Error: a; b[31mred");
        assert_eq!(said(b" \n"), "it said nothing");
        assert_eq!(said(&[b'x'; 1000]).chars().count(), 401);
    }

    #[test]
    fn a_sentence_is_one_bounded_line_without_escapes() {
        let error = |dir: &str| {
            let source = io::Error::other("gone");
            Error::Local { path: PathBuf::from(dir), source }.sentence()
        };
        assert_eq!(error("/a\n\x1b[2J\u{202e}ü"), "/a\\n\\u{1b}[2J\\u{202e}ü: gone");
        assert_eq!(error(&"x".repeat(10_000)).chars().count(), 4001);
    }
}
