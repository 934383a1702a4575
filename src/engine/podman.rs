//! podman: `podman exec NAME`, much like docker's.
//!
//! podman looks for its detach keys (0x10 0x11 by default) in a stdin that is no terminal, too, as long as they come in reads of one
//! byte each, and ends the exec. So every exec names others.
//!
//! conmon, which podman starts for each exec, closes its socket as soon as the command ends. Where stdin was not read to its end
//! that resets the connection, and podman ends with the command's status but without its output; a shell that reads the rest
//! prevents it.

use super::{Env, Refusal, add_env, os};
use crate::error::{Error, Result, said, shown};
use crate::transport::cli::CommandLine;

/// Beginnings of variables that podman itself obeys.
const OWN_VARIABLES: &[&str] = &["CONTAINER", "PODMAN_", "STORAGE_", "XDG_", "TMPDIR", "LD_", "PATH", "HOME"];

/// Bytes that never come like this, one by one. Not the empty list, which does what it should in podman, but means the default to
/// podman-remote.
const DETACH_KEYS: &str =
    "--detach-keys=ctrl-_,ctrl-^,ctrl-@,ctrl-],ctrl-_,ctrl-@,ctrl-^,ctrl-_,ctrl-],ctrl-@,ctrl-^,ctrl-_";

/// A container of podman, by name or id.
#[derive(Clone, Debug, Default, Hash)]
pub struct Podman {
    /// Name or id.
    pub container: Vec<u8>,
    /// The podman executable (`podman-remote` is one too): a path, or a name looked up in `PATH`.
    pub executable: Vec<u8>,
    /// More global arguments, before the subcommand.
    pub extra_args: Vec<Vec<u8>>,
    /// `--user`, resolved by podman.
    pub user: Option<Vec<u8>>,
    /// Variables added to the container's own.
    pub env: Env,
    /// `--workdir`.
    pub working_dir: Option<Vec<u8>>,
}

impl Podman {
    pub(super) fn target(&self) -> String {
        format!("podman container {:?}", shown(&self.container))
    }

    fn global(&self) -> CommandLine {
        let mut argv = vec![os(self.executable.clone())];
        argv.extend(self.extra_args.iter().cloned().map(os));
        CommandLine { argv, ..CommandLine::default() }
    }

    pub(super) fn state(&self) -> CommandLine {
        let mut line = self.global();
        line.argv.extend(
            ["inspect", "--type", "container", "--format", "{{.State.Status}}", "--"].map(Into::into),
        );
        line.argv.push(os(self.container.clone()));
        line
    }

    pub(super) fn exec(&self, command: &[Vec<u8>], stdin: bool) -> Result<CommandLine> {
        let mut line = self.global();
        line.argv.extend(["exec".into(), DETACH_KEYS.into()]);
        if let Some(user) = &self.user {
            line.argv.extend(["--user".into(), os(user.clone())]);
        }
        add_env(&self.target(), &mut line, &self.env, OWN_VARIABLES)?;
        if let Some(dir) = &self.working_dir {
            line.argv.extend(["--workdir".into(), os(dir.clone())]);
        }
        if stdin {
            line.argv.push("--interactive".into());
        }
        line.argv.extend(["--".into(), os(self.container.clone())]);
        line.argv.extend(command.iter().cloned().map(os));
        Ok(line)
    }

    pub(super) fn refusal(&self, refusal: &Refusal<'_>) -> Error {
        let target = self.target();
        let text = shown(refusal.stderr).replace("Error: ", "");
        let said = said(text.as_bytes());
        let has = |part: &str| text.contains(part);
        if has("no such container") || has("no container with name or ID") {
            Error::NoSuchContainer { target, said }
        } else if has("container state improper") || has("on running containers") {
            // Whichever state it is: the caller asks for it.
            Error::NotRunning { target, state: "stopped".to_owned(), remedy: self.remedy("stopped") }
        } else if has("unable to find user") || has("unable to find group") || has("no matching entries in") {
            Error::UnknownUser { target, user: self.user.as_deref().map(shown).unwrap_or_default(), said }
        } else if has("connect: permission denied") {
            Error::Forbidden { target, said }
        } else if has("unknown flag:")
            || has("unknown shorthand flag:")
            || has("failed to resolve active destination")
            || has("unable to create connection")
        {
            Error::Configuration { target, said }
        } else if has("Cannot connect to Podman")
            || has("unable to connect to Podman")
            || has("failed to connect")
            || has("connection refused")
        {
            Error::EngineUnreachable { target, said }
        } else if has("chdir to cwd") || has("Cwd must be an absolute path") {
            Error::WorkingDir {
                target,
                dir: self.working_dir.as_deref().map(shown).unwrap_or_default(),
                said,
            }
        } else if has("exec: \"/bin/sh\"") || has("executable file `/bin/sh` not found") {
            Error::NoShell { target, shell: "/bin/sh".to_owned(), said }
        } else if text.trim().is_empty() {
            // podman says why it did not start a command; here it passed the status on, and lost the output.
            let code = refusal.code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"));
            Error::OutcomeUnknown {
                target,
                said: format!("podman ended with {code} and passed no output on"),
            }
        } else {
            Error::EngineFailed { target, said }
        }
    }

    pub(super) fn remedy(&self, state: &str) -> String {
        let name = shown(&self.container);
        match state {
            "paused" => format!("unpause it with `podman unpause {name}`"),
            _ => format!("start it with `podman start {name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn podman() -> Podman {
        Podman { container: b"web".to_vec(), executable: b"podman".to_vec(), ..Podman::default() }
    }

    #[test]
    fn options_become_arguments() {
        let line = podman().exec(&[b"true".to_vec()], false).unwrap();
        assert_eq!(line.argv, ["podman", "exec", DETACH_KEYS, "--", "web", "true"]);
        let all = Podman {
            extra_args: vec![b"--remote".to_vec()],
            user: Some(b"app".to_vec()),
            env: Env::from([(b"A".to_vec(), b"s3cret".to_vec()), (b"B".to_vec(), b"two\nlines".to_vec())]),
            working_dir: Some(b"/srv".to_vec()),
            ..podman()
        };
        let line = all.exec(&[b"sh".to_vec()], true).unwrap();
        let file = line.held[0].path();
        #[rustfmt::skip]
        let expected = [
            "podman", "--remote", "exec", DETACH_KEYS, "--user", "app", "--env-file", file.to_str().unwrap(),
            "--env", "B", "--workdir", "/srv", "--interactive", "--", "web", "sh",
        ];
        assert_eq!(line.argv, expected);
        assert_eq!(line.env, [("B".into(), "two\nlines".into())]);
    }

    #[test]
    fn refusals_as_podman_words_them() {
        // podman 4.3.
        let table = [
            ("Error: no container with name or ID \"web\" found: no such container", "does not exist"),
            (
                "Error: can only create exec sessions on running containers: container state improper",
                "is stopped, not running",
            ),
            ("Error: unable to find user x: no matching entries in passwd file", "cannot be used"),
            (
                "Error: runc: exec failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory: x",
                "has no usable shell",
            ),
            (
                "Error: unknown flag: --nope\nSee 'podman exec --help'",
                "is configured wrongly (unknown flag: --nope; See",
            ),
            (
                "Error: OCI runtime error: runc: exec failed: Cwd must be an absolute path",
                "cannot be entered",
            ),
            (
                "Cannot connect to Podman. Please verify your connection to the Linux system\n\
                 Error: unable to connect to Podman socket: Get \"http://d/v4.3.1/libpod/_ping\": dial unix /x.sock: \
                 connect: permission denied",
                "refused access (Cannot connect to Podman. Please",
            ),
            (
                "Error: failed to connect: dial tcp 127.0.0.1:1: connect: connection refused",
                "cannot be reached",
            ),
            (
                "Error: OCI runtime error: unable to start container process",
                "failed to start the command: OCI",
            ),
            ("", "was lost (podman ended with status 3 and passed no output on); its outcome is unknown"),
        ];
        for (stderr, expected) in table {
            let refusal = Refusal { code: Some(3), stderr: stderr.as_bytes(), ..Refusal::default() };
            let error = podman().refusal(&refusal).to_string();
            assert!(error.contains(expected) && error.starts_with("podman container \"web\""), "{error}");
        }
    }
}
