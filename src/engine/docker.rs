//! docker: `docker exec NAME`.
//!
//! The client finds its daemon as it always does (`DOCKER_HOST`, `DOCKER_CONTEXT`, `DOCKER_CONFIG`, TLS variables, or the extra
//! arguments): its environment is the worker's own.

use super::{Env, Refusal, add_env, os};
use crate::error::{Error, Result, said, shown};
use crate::transport::cli::CommandLine;

/// Beginnings of variables that the docker client itself obeys.
const OWN_VARIABLES: &[&str] = &["DOCKER_", "LD_", "PATH", "HOME"];

/// A container of a docker daemon, by name or id.
#[derive(Clone, Debug, Default, Hash)]
pub struct Docker {
    /// Name or id.
    pub container: Vec<u8>,
    /// The docker executable: a path, or a name looked up in `PATH`.
    pub executable: Vec<u8>,
    /// More global arguments, before the subcommand.
    pub extra_args: Vec<Vec<u8>>,
    /// `--user`, resolved by the daemon.
    pub user: Option<Vec<u8>>,
    /// Variables added to the container's own.
    pub env: Env,
    /// `--workdir`.
    pub working_dir: Option<Vec<u8>>,
    /// `--privileged`.
    pub privileged: bool,
}

impl Docker {
    pub(super) fn target(&self) -> String {
        format!("docker container {:?}", shown(&self.container))
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
        line.argv.push("exec".into());
        if let Some(user) = &self.user {
            line.argv.extend(["--user".into(), os(user.clone())]);
        }
        add_env(&self.target(), &mut line, &self.env, OWN_VARIABLES)?;
        if let Some(dir) = &self.working_dir {
            line.argv.extend(["--workdir".into(), os(dir.clone())]);
        }
        if self.privileged {
            line.argv.push("--privileged".into());
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
        // dockerd before 28 reports a failed start as the command's own output.
        let text = format!("{}\n{}", shown(refusal.stdout), shown(refusal.stderr));
        let text = text.trim().replace("Error response from daemon: ", "");
        let said = said(text.as_bytes());
        let has = |part: &str| text.contains(part);
        if has("No such container") {
            Error::NoSuchContainer { target, said }
        } else if has("is not running") {
            self.not_running(target, "stopped")
        } else if has("is paused") {
            self.not_running(target, "paused")
        } else if has("is restarting") {
            self.not_running(target, "restarting")
        } else if has("unable to find user")
            || has("unable to find group")
            || has("no matching entries in")
            || has("uids and gids must be in range")
        {
            Error::UnknownUser { target, user: self.user.as_deref().map(shown).unwrap_or_default(), said }
        } else if has("permission denied while trying to connect")
            || has("Got permission denied")
            || has("remote error: tls:")
        {
            Error::Forbidden { target, said }
        } else if has("x509:")
            || has("HTTP request to an HTTPS server")
            || has("Failed to initialize:")
            || has("unknown flag:")
            || has("unknown shorthand flag:")
        {
            Error::Configuration { target, said }
        } else if has("Cannot connect to the Docker daemon")
            || has("error during connect")
            || has("failed to connect to the docker API")
            || has("Is the docker daemon running")
        {
            Error::EngineUnreachable { target, said }
        } else if has("context not found")
            || has("unable to resolve docker endpoint")
            || has("unable to parse docker host")
        {
            Error::Configuration { target, said }
        } else if has("chdir to cwd") || has("Cwd must be an absolute path") {
            Error::WorkingDir {
                target,
                dir: self.working_dir.as_deref().map(shown).unwrap_or_default(),
                said,
            }
        } else if has("exec: \"/bin/sh\"") {
            Error::NoShell { target, shell: "/bin/sh".to_owned(), said }
        } else {
            Error::EngineFailed { target, said }
        }
    }

    fn not_running(&self, target: String, state: &str) -> Error {
        Error::NotRunning { target, state: state.to_owned(), remedy: self.remedy(state) }
    }

    pub(super) fn remedy(&self, state: &str) -> String {
        let name = shown(&self.container);
        match state {
            "paused" => format!("unpause it with `docker unpause {name}`"),
            "restarting" => "wait until it runs, or see `docker logs` for why it ends".to_owned(),
            _ => format!("start it with `docker start {name}`"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn docker() -> Docker {
        Docker { container: b"web".to_vec(), executable: b"docker".to_vec(), ..Docker::default() }
    }

    #[test]
    fn options_become_arguments() {
        let line = docker().exec(&[b"true".to_vec()], false).unwrap();
        assert_eq!(line.argv, ["docker", "exec", "--", "web", "true"]);
        let all = Docker {
            extra_args: vec![b"-H".to_vec(), b"tcp://h".to_vec()],
            user: Some(b"app".to_vec()),
            env: Env::from([(b"A".to_vec(), b"s3cret".to_vec()), (b"B".to_vec(), b"two\nlines".to_vec())]),
            working_dir: Some(b"/srv".to_vec()),
            privileged: true,
            ..docker()
        };
        let line = all.exec(&[b"sh".to_vec(), b"-c".to_vec()], true).unwrap();
        let file = line.held[0].path();
        let expected = [
            "docker",
            "-H",
            "tcp://h",
            "exec",
            "--user",
            "app",
            "--env-file",
            file.to_str().unwrap(),
            "--env",
            "B",
            "--workdir",
            "/srv",
            "--privileged",
            "--interactive",
            "--",
            "web",
            "sh",
            "-c",
        ];
        assert_eq!(line.argv, expected);
        assert_eq!(line.held[0].contents(100).unwrap(), b"A=s3cret\n");
        assert_eq!(line.env, [("B".into(), "two\nlines".into())]);
    }

    #[test]
    fn several_lines_may_not_change_the_client() {
        let docker = Docker { env: Env::from([(b"DOCKER_HOST".to_vec(), b"a\nb".to_vec())]), ..docker() };
        assert!(docker.exec(&[], false).unwrap_err().to_string().contains("extra_env cannot be used"));
    }

    #[test]
    fn refusals_as_docker_words_them() {
        // dockerd 20.10 and 28 with their clients.
        let table = [
            (
                "",
                "Error: No such container: web\n",
                "docker container \"web\" does not exist (Error: No such container: web): check its name, or start it first",
            ),
            (
                "",
                "Error response from daemon: Container 4f3 is not running\n",
                "docker container \"web\" is stopped, not running: start it with `docker start web`",
            ),
            (
                "",
                "Error response from daemon: Container web is paused, unpause the container before exec\n",
                "docker container \"web\" is paused, not running: unpause it with `docker unpause web`",
            ),
            (
                "OCI runtime exec failed: exec failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory: unknown\r\n",
                "",
                "docker container \"web\" has no usable shell \"/bin/sh\" (OCI runtime exec failed: exec failed: unable to start container process: exec: \"/bin/sh\": \
              stat /bin/sh: no such file or directory: unknown): every connection runs commands through a shell",
            ),
            (
                "",
                "Error response from daemon: Client sent an HTTP request to an HTTPS server.\n",
                "docker container \"web\": the engine's client is configured wrongly (Client sent an HTTP request to an HTTPS server): \
              check the options of this connection and the client's own configuration",
            ),
            (
                "",
                "error during connect: Get \"https://h/\": remote error: tls: bad certificate\n",
                "docker container \"web\": the engine refused access (error during connect: Get \"https://h/\": remote error: tls: bad \
              certificate): ask for the permission, or use other credentials",
            ),
            (
                "",
                "Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?\n",
                "docker container \"web\": the engine cannot be reached (Cannot connect to the Docker daemon at unix:///x.sock. Is the docker daemon running?): \
              check that it is up and where it listens",
            ),
        ];
        for (stdout, stderr, expected) in table {
            let refusal =
                Refusal { code: Some(1), stdout: stdout.as_bytes(), stderr: stderr.as_bytes(), log: b"" };
            assert_eq!(docker().refusal(&refusal).to_string(), expected);
        }
    }
}
