//! runc: `runc exec --process FILE ID`.
//!
//! The process is given as a JSON file (a memfd): the command, its environment and its user are on nobody's command line,
//! and one way serves `--user`, `--additional-gids`, `--cwd` and `--env`. Its base is the `process` of the bundle's `config.json`, as
//! `runc exec` itself takes it. runc exits with 255 for its own failures and for a command's 255; only its JSON log tells them apart.

use serde::Deserialize;
use serde_json::{Value, json};

use super::user::User;
use super::{Env, Refusal, held, os};
use crate::error::{Error, Result, said, shown};
use crate::transport::cli::CommandLine;

/// A container of runc, by its full id.
#[derive(Clone, Debug, Default, Hash)]
pub struct Runc {
    /// The container's id.
    pub container: Vec<u8>,
    /// The runc executable: a path, or a name looked up in `PATH`.
    pub executable: Vec<u8>,
    /// `--root`; runc's own default when `None`.
    pub root: Option<Vec<u8>>,
    /// More global arguments, before the subcommand.
    pub extra_args: Vec<Vec<u8>>,
    /// `remote_user` as given: a name or numbers.
    pub user: Option<Vec<u8>>,
    /// Variables added to the container's own.
    pub env: Env,
    /// Directory of commands; the bundle's own when `None`.
    pub working_dir: Option<Vec<u8>>,
    /// The `process` that commands are started with, once the container was opened.
    pub process: Option<Value>,
}

/// What `runc state` prints, as far as it is needed.
#[derive(Clone, Debug, Deserialize)]
pub struct State {
    /// created, running, paused or stopped.
    pub status: String,
    /// The init process on the host; 0 when there is none.
    pub pid: u32,
    /// The directory that holds `config.json`.
    pub bundle: String,
}

impl State {
    /// Parses what `runc state` printed.
    pub fn parse(stdout: &[u8]) -> Option<Self> {
        serde_json::from_slice(stdout).ok()
    }
}

impl Runc {
    pub(super) fn target(&self) -> String {
        format!("runc container {:?}", shown(&self.container))
    }

    /// `runc <global arguments>` with a log that this side can read: the first held file.
    fn global(&self) -> Result<CommandLine> {
        let mut line = CommandLine { argv: vec![os(self.executable.clone())], ..CommandLine::default() };
        let log = held(&self.target(), line.hold(b""))?;
        line.argv.extend(["--log".into(), log, "--log-format".into(), "json".into()]);
        if let Some(root) = &self.root {
            line.argv.extend(["--root".into(), os(root.clone())]);
        }
        line.argv.extend(self.extra_args.iter().cloned().map(os));
        Ok(line)
    }

    pub(super) fn state(&self) -> Result<CommandLine> {
        let mut line = self.global()?;
        line.argv.extend(["state".into(), os(self.container.clone())]);
        Ok(line)
    }

    /// Takes the base process from the text of `config.json` and makes it this session's.
    pub fn open(&mut self, config: &[u8], user: Option<&User>) -> Result<()> {
        let unusable = |reason: &str| Error::Option {
            target: self.target(),
            option: "the bundle's config.json",
            reason: reason.to_owned(),
        };
        let mut config: Value = serde_json::from_slice(config)
            .map_err(|error| unusable(&format!("it is not valid JSON ({error})")))?;
        let mut process = config["process"].take();
        let fields = process.as_object_mut().ok_or_else(|| unusable("it has no process"))?;
        fields.insert("terminal".to_owned(), json!(false));
        fields.remove("consoleSize");
        let mut added = self.env.clone();
        if let Some(user) = user {
            fields.insert(
                "user".to_owned(),
                json!({"uid": user.uid, "gid": user.gid, "additionalGids": user.groups}),
            );
            // runc sets HOME itself, but only where the bundle's environment has none.
            added
                .entry(b"HOME".to_vec())
                .or_insert_with(|| user.home.clone().unwrap_or_else(|| "/".to_owned()).into());
        }
        let mut env: Vec<Value> = match fields.get("env") {
            Some(Value::Array(env)) => env.clone(),
            _ => vec![],
        };
        for (name, value) in &added {
            let name = self.text("extra_env", name)?;
            let value = self.text("extra_env", value)?;
            env.retain(|set| set.as_str().is_none_or(|set| set.split('=').next() != Some(name)));
            env.push(json!(format!("{name}={value}")));
        }
        fields.insert("env".to_owned(), Value::Array(env));
        if let Some(dir) = &self.working_dir {
            let dir = self.text("working_dir", dir)?.to_owned();
            if !dir.starts_with('/') {
                let reason = format!("{dir:?} is not an absolute path");
                return Err(Error::Option { target: self.target(), option: "working_dir", reason });
            }
            fields.insert("cwd".to_owned(), json!(dir));
        }
        self.process = Some(process);
        Ok(())
    }

    fn text<'a>(&self, option: &'static str, bytes: &'a [u8]) -> Result<&'a str> {
        std::str::from_utf8(bytes).map_err(|_| Error::Option {
            target: self.target(),
            option,
            reason: "runc takes UTF-8 text only".to_owned(),
        })
    }

    pub(super) fn exec(&self, command: &[Vec<u8>]) -> Result<CommandLine> {
        let mut process = self.process.clone().expect("a runc container is opened before it is used");
        let args: Vec<&str> =
            command.iter().map(|word| self.text("the command", word)).collect::<Result<_>>()?;
        process["args"] = json!(args);
        let mut line = self.global()?;
        let file = held(&self.target(), line.hold(process.to_string().as_bytes()))?;
        line.argv.extend(["exec".into(), "--process".into(), file, os(self.container.clone())]);
        Ok(line)
    }

    /// The same container with commands as root, when they are not.
    pub(super) fn as_root(&self) -> Option<Self> {
        let mut runc = self.clone();
        let user = runc.process.as_mut()?.get_mut("user")?;
        if user["uid"] == 0 {
            return None;
        }
        *user = json!({"uid": 0, "gid": 0});
        Some(runc)
    }

    /// The last error in runc's JSON log: there is one exactly when runc itself failed.
    pub fn logged_error(log: &[u8]) -> Option<String> {
        #[derive(Deserialize)]
        struct Line {
            level: String,
            msg: String,
        }
        log.split(|byte| *byte == b'\n')
            .filter_map(|line| serde_json::from_slice::<Line>(line).ok())
            .rfind(|line| matches!(line.level.as_str(), "error" | "fatal" | "panic"))
            .map(|line| line.msg)
    }

    pub(super) fn refusal(&self, refusal: &Refusal<'_>) -> Error {
        let target = self.target();
        let text = Self::logged_error(refusal.log).unwrap_or_else(|| shown(refusal.stderr));
        let text = text.strip_prefix("exec failed: ").unwrap_or(&text);
        let said = said(text.as_bytes());
        let has = |part: &str| text.contains(part);
        if has("does not exist") && has("container") {
            let place = match &self.root {
                Some(root) => format!(" below {}", shown(root)),
                None => "; runc_root is not set".to_owned(),
            };
            Error::NoSuchContainer { target, said: said + &place }
        } else if has("invalid container ID") {
            Error::NoSuchContainer { target, said }
        } else if has("uids and gids must be in range") {
            Error::UnknownUser { target, user: self.user.as_deref().map(shown).unwrap_or_default(), said }
        } else if has("flag provided but not defined") {
            Error::Configuration { target, said }
        } else if has("stopped container") {
            Error::NotRunning { target, state: "stopped".to_owned(), remedy: self.remedy("stopped") }
        } else if has("paused container") {
            Error::NotRunning { target, state: "paused".to_owned(), remedy: self.remedy("paused") }
        } else if has("chdir to cwd") {
            let dir = self.working_dir.as_deref().map(shown).unwrap_or_default();
            Error::WorkingDir { target, dir, said }
        } else if has("exec: \"/bin/sh\"") {
            Error::NoShell { target, shell: "/bin/sh".to_owned(), said }
        } else if has("permission denied") && has("open ") {
            Error::Forbidden { target, said }
        } else {
            Error::EngineFailed { target, said }
        }
    }

    pub(super) fn remedy(&self, state: &str) -> String {
        let id = shown(&self.container);
        match state {
            "created" => format!("start it with `runc start {id}`"),
            "paused" => format!("resume it with `runc resume {id}`"),
            _ => "delete it and run it again".to_owned(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn runc() -> Runc {
        Runc {
            container: b"web".to_vec(),
            executable: b"runc".to_vec(),
            root: Some(b"/r".to_vec()),
            ..Runc::default()
        }
    }

    const CONFIG: &[u8] =
        br#"{"process": {"terminal": true, "user": {"uid": 0, "gid": 0}, "args": ["sleep"], "cwd": "/",
        "env": ["PATH=/bin", "HOME=/root"], "noNewPrivileges": true}}"#;

    fn process_of(line: &CommandLine) -> Value {
        serde_json::from_slice(&line.held[1].contents(1 << 20).unwrap()).unwrap()
    }

    #[test]
    fn the_command_travels_in_the_process_file() {
        let mut runc = runc();
        runc.extra_args = vec![b"--systemd-cgroup".to_vec()];
        runc.open(CONFIG, None).unwrap();
        let line = runc.exec(&[b"/bin/sh".to_vec(), b"-c".to_vec(), b"true".to_vec()]).unwrap();
        let (log, process) = (line.held[0].path(), line.held[1].path());
        let expected = [
            "runc",
            "--log",
            log.to_str().unwrap(),
            "--log-format",
            "json",
            "--root",
            "/r",
            "--systemd-cgroup",
            "exec",
            "--process",
            process.to_str().unwrap(),
            "web",
        ];
        assert_eq!(line.argv, expected);
        let process = process_of(&line);
        assert_eq!(process["args"], json!(["/bin/sh", "-c", "true"]));
        assert_eq!(process["terminal"], json!(false));
        assert_eq!(process["noNewPrivileges"], json!(true));
        assert_eq!(process["env"], json!(["PATH=/bin", "HOME=/root"]));
    }

    #[test]
    fn user_home_env_and_directory() {
        let mut runc = runc();
        runc.env = Env::from([(b"A".to_vec(), b"1=2".to_vec()), (b"PATH".to_vec(), b"/x".to_vec())]);
        runc.working_dir = Some(b"/srv".to_vec());
        let user = User { uid: 1000, gid: 1001, groups: vec![2000], home: Some("/home/app".to_owned()) };
        runc.open(CONFIG, Some(&user)).unwrap();
        let process = process_of(&runc.exec(&[]).unwrap());
        assert_eq!(process["user"], json!({"uid": 1000, "gid": 1001, "additionalGids": [2000]}));
        assert_eq!(process["env"], json!(["A=1=2", "HOME=/home/app", "PATH=/x"]));
        assert_eq!(process["cwd"], json!("/srv"));
    }

    #[test]
    fn root_is_another_user() {
        let mut runc = runc();
        runc.open(CONFIG, None).unwrap();
        assert!(runc.as_root().is_none());
        let app = User { uid: 1000, gid: 1000, groups: vec![2000], home: None };
        runc.open(CONFIG, Some(&app)).unwrap();
        let line = runc.as_root().unwrap().exec(&[]).unwrap();
        assert_eq!(process_of(&line)["user"], json!({"uid": 0, "gid": 0}));
    }

    #[test]
    fn unusable_options_are_named() {
        let mut relative = Runc { working_dir: Some(b"srv".to_vec()), ..runc() };
        assert!(
            relative
                .open(CONFIG, None)
                .unwrap_err()
                .to_string()
                .contains("working_dir cannot be used: \"srv\" is not")
        );
        let mut binary = Runc { env: Env::from([(b"A".to_vec(), vec![0xff])]), ..runc() };
        assert!(binary.open(CONFIG, None).unwrap_err().to_string().contains("UTF-8"));
        assert!(runc().open(b"{}", None).unwrap_err().to_string().contains("has no process"));
        assert!(runc().open(b"{", None).unwrap_err().to_string().contains("not valid JSON"));
    }

    #[test]
    fn refusals_as_runc_words_them() {
        // runc 1.1.5, `--log-format json`.
        let table = [
            (
                "exec failed: container does not exist",
                "runc container \"web\" does not exist (container does not exist below /r): check its name, or start it first",
            ),
            (
                "exec failed: cannot exec in a stopped container",
                "runc container \"web\" is stopped, not running: delete it and run it again",
            ),
            (
                "exec failed: cannot exec in a paused container (use --ignore-paused to override)",
                "runc container \"web\" is paused, not running: resume it with `runc resume web`",
            ),
            (
                "exec failed: unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or directory",
                "runc container \"web\" has no usable shell \"/bin/sh\" (unable to start container process: exec: \"/bin/sh\": stat /bin/sh: no such file or \
              directory): every connection runs commands through a shell",
            ),
        ];
        for (msg, expected) in table {
            let log = format!(
                "{{\"level\":\"warning\",\"msg\":\"w\"}}\n{}\n",
                json!({"level": "error", "msg": msg, "time": "t"})
            );
            let refusal = Refusal { code: Some(255), log: log.as_bytes(), ..Refusal::default() };
            assert_eq!(runc().refusal(&refusal).to_string(), expected);
        }
    }

    #[test]
    fn a_warning_is_no_error() {
        assert_eq!(Runc::logged_error(b"{\"level\":\"warning\",\"msg\":\"w\"}\nnot json\n"), None);
    }
}
