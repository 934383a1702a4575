//! How an agent's program reaches an interpreter: a short text as the argument of `-c` reads the rest from stdin.

use super::line::quote;
use crate::wire::MAGIC;
use crate::wire::frame::{Frames, Kind};
use crate::wire::message::{self, AgentHello};

const AGENT: [&str; 2] = [
    include_str!("../../python/ansible_gangway/agent.py"),
    include_str!("../../python/ansible_gangway/agent_tasks.py"),
];
const COMMANDS: &[&str] = &[
    include_str!("../../python/ansible_gangway/agent_commands.py"),
    include_str!("../../python/ansible_gangway/agent_steps.py"),
];
const WARM: &[&str] = &[
    include_str!("../../python/ansible_gangway/warm.py"),
    include_str!("../../python/ansible_gangway/warm_texts.py"),
    include_str!("../../python/ansible_gangway/warm_library.py"),
    include_str!("../../python/ansible_gangway/warm_child.py"),
];

/// How the last line of the source begins, and no other.
const LAST: &str = "main";

/// What an agent is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Serves {
    /// Commands and files.
    Commands,
    /// Modules, which run in children of a warm interpreter.
    Modules,
}

impl Serves {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Commands => "commands",
            Self::Modules => "modules",
        }
    }
}

/// The program of an agent.
#[derive(Debug)]
pub(super) struct Boot {
    nonce: String,
    source: Vec<u8>,
}

impl Boot {
    /// `interpreter` is what the line names, to be watched for changes.
    pub(super) fn new(
        nonce: String,
        serves: Serves,
        always: bool,
        kill_on_disconnect: bool,
        interpreter: &[u8],
    ) -> Self {
        let python = |flag: bool| if flag { "True" } else { "False" };
        let serving = match serves {
            Serves::Commands => COMMANDS,
            Serves::Modules => WARM,
        };
        // One after the other: what compiling takes of memory stays with the process, and is less so. JSON's strings are Python's.
        let texts: Vec<_> =
            AGENT.iter().chain(serving).map(|text| serde_json::json!(text).to_string()).collect();
        let source = format!(
            "for _s in {}:exec(_s)\ndel _s\n{LAST}({{\"nonce\": \"{nonce}\", \"always\": {}, \"kill_on_disconnect\": {}, \"serves\": \"{}\", \"interpreter\": b\"{}\"}})\n",
            texts.join(","),
            python(always),
            python(kill_on_disconnect),
            serves.name(),
            interpreter.escape_ascii(),
        );
        Self { nonce, source: source.into_bytes() }
    }

    /// What the interpreter reads from stdin, exactly.
    pub(super) fn source(&self) -> &[u8] {
        &self.source
    }

    /// The argument of `-c`: one line without anything that some shell, or `sudo -i`, would have to escape.
    ///
    /// The first thing it does, with `sys` alone, is to look for modules nowhere but in Python's own directories: a `json.py` in the
    /// container's working directory is not ours. It never runs a part of the source.
    pub(super) fn program(&self) -> String {
        let length = self.source.len();
        format!(
            "import sys;sys.path[:]=[p for p in sys.path if p not in(str(),chr(46))];import os;_s=bytearray();\
             [_s.extend(os.read(0,{length}-len(_s))or sys.exit(1))for _x in iter(lambda:len(_s)-{length},0)];exec(bytes(_s))"
        )
    }

    /// The line that finds an interpreter in the container, `first` before those that systems have, and starts the agent in it.
    ///
    /// Isolated (`-I`): the container's PYTHONPATH is for its programs, which get it all the same. Without `site`, whose packages it does
    /// not use, it starts sooner and is smaller. Where there is none, the source is
    /// read to its last line all the same: podman may lose the output of what ends with its stdin unread.
    pub(super) fn find_python(&self, first: Option<&[u8]>) -> Vec<u8> {
        let first = first.map(quote).unwrap_or_default();
        let names = b" python3 /usr/libexec/platform-python python".as_slice();
        let found = br#";do command -v "$_gangway_p" >/dev/null 2>&1&&exec "$_gangway_p" -IS -c "#.as_slice();
        let program = quote(self.program().as_bytes());
        let none = format!(
            ";done;while read -r _gangway_p;do case $_gangway_p in {LAST}\\(*)break;;esac;done;echo {};exit 127",
            self.none()
        );
        [b"for _gangway_p in ", first.as_slice(), names, found, &program, none.as_bytes()].concat()
    }

    /// Whether a line of [`Self::find_python`] that wrote this had nothing to start. Its status does not tell: what a Python that is
    /// there but broken ends with is 127 as well, when the program behind its `#!` is missing.
    pub(super) fn found_none(&self, stdout: &[u8]) -> bool {
        stdout.trim_ascii_end().ends_with(self.none().as_bytes())
    }

    fn none(&self) -> String {
        format!("no-python-{}", self.nonce)
    }

    /// Finds the HELLO in what the process wrote: `(where the agent's own bytes begin, what it said)`.
    ///
    /// `None` when it has not come wholly yet; an error in words when what comes there is no HELLO.
    pub(super) fn find_hello(&self, stdout: &[u8]) -> Option<Result<(usize, AgentHello), String>> {
        let opening = [MAGIC, b" ", self.nonce.as_bytes(), b"\n"].concat();
        let start = memchr::memmem::find(stdout, &opening)?;
        let mut frames = Frames::default();
        frames.push(&stdout[start + opening.len()..]);
        match frames.next_frame() {
            Ok(None) => None,
            Ok(Some(frame)) if frame.kind == Kind::Hello => Some(
                message::head(&frame)
                    .map(|hello| (start, hello))
                    .map_err(|error| format!("the agent's first words are none of its own ({error})")),
            ),
            Ok(Some(_)) => Some(Err("the agent's first words are none of its own".to_owned())),
            Err(malformed) => Some(Err(format!("the agent began with {malformed}"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::fs::PermissionsExt;
    use std::process::{Command, Output, Stdio};

    fn run(boot: &Boot, cut: usize, line: &[u8], dir: &std::path::Path) -> Output {
        use std::os::unix::ffi::OsStrExt;
        let mut child = Command::new("/bin/sh")
            .arg("-c")
            .arg(std::ffi::OsStr::from_bytes(line))
            .current_dir(dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut stdin = child.stdin.take().unwrap();
        for piece in boot.source[..boot.source.len() - cut].chunks(7) {
            stdin.write_all(piece).unwrap();
        }
        drop(stdin);
        child.wait_with_output().unwrap()
    }

    fn boot(source: &str) -> Boot {
        Boot { nonce: "n".to_owned(), source: source.as_bytes().to_vec() }
    }

    #[test]
    fn the_whole_source_runs_and_a_part_of_it_never() {
        let dir = std::env::temp_dir().join(format!("gangway-boot-{}", crate::sys::nonce().unwrap()));
        std::fs::create_dir(&dir).unwrap();
        for module in ["os.py", "json.py"] {
            std::fs::write(dir.join(module), "print('from the working directory')").unwrap();
        }
        let boot = boot("import json\nprint('ran', len(sys.argv))\n#");
        let line = boot.find_python(Some(b"/no/such/it's"));
        assert_eq!(run(&boot, 0, &line, &dir).stdout, b"ran 1\n");
        assert_eq!(run(&boot, 1, &line, &dir).stdout, b"");
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn no_python_is_not_a_broken_one() {
        let dir = std::env::temp_dir().join(format!("gangway-boot-{}", crate::sys::nonce().unwrap()));
        std::fs::create_dir(&dir).unwrap();
        let boot = boot("x");
        let line = String::from_utf8(boot.find_python(None)).unwrap();
        let line = line.replace("/usr/libexec/platform-python", "/nowhere/python");
        let line = format!("PATH={};{line}", dir.display());
        let ended = || {
            let Output { status, stdout, .. } = run(&boot, 1, line.as_bytes(), &dir);
            (status.code(), boot.found_none(&stdout))
        };
        assert_eq!(ended(), (Some(127), true));
        for broken in ["#!/no/such/interpreter\n", "#!/bin/sh\necho no-python-; exit 127\n"] {
            std::fs::write(dir.join("python"), broken).unwrap();
            std::fs::set_permissions(dir.join("python"), PermissionsExt::from_mode(0o755)).unwrap();
            assert_eq!(ended(), (Some(127), false), "{broken}");
        }
        std::fs::remove_dir_all(&dir).unwrap();
    }

    #[test]
    fn without_python_the_source_is_read_to_its_last_line() {
        for serves in [Serves::Commands, Serves::Modules] {
            let boot = Boot::new("n".to_owned(), serves, true, false, b"python3");
            let line = String::from_utf8(boot.find_python(None)).unwrap();
            let line = line.replace("/usr/libexec/platform-python", "/nowhere/python");
            let mut child = Command::new("/usr/bin/timeout")
                .args(["20", "/bin/sh", "-c", &format!("PATH=/nowhere;{line}")])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap();
            let mut stdin = child.stdin.take().unwrap();
            stdin.write_all(boot.source()).unwrap();
            let output = child.wait_with_output().unwrap();
            assert_eq!(output.status.code(), Some(127));
            assert!(boot.found_none(&output.stdout));
            drop(stdin);
        }
    }

    #[test]
    fn a_hello_behind_other_words() {
        let hello = AgentHello {
            version: 1,
            pid: 7,
            uid: 0,
            python: "3.11.2".to_owned(),
            executable: "/usr/bin/python3".to_owned(),
            instance: String::new(),
            refused: None,
        };
        let boot = boot("");
        let mut stdout = b"motd \x1egangway-agent\n".to_vec();
        let start = stdout.len();
        stdout.extend_from_slice(b"\x1egangway-agent n\n");
        message::frame(Kind::Hello, 0, &hello).write_to(&mut stdout);
        assert_eq!(boot.find_hello(&stdout), Some(Ok((start, hello))));
        assert_eq!(boot.find_hello(&stdout[..stdout.len() - 1]), None);
        stdout[start + 17] = 2;
        assert!(matches!(boot.find_hello(&stdout), Some(Err(_))));
    }

    #[test]
    fn the_program_needs_no_escaping() {
        assert!(
            !Boot::new("n".to_owned(), Serves::Modules, true, false, b"python3")
                .program()
                .contains(['\'', '"', '\n', '\\', '$', '`', '!'])
        );
    }
}
