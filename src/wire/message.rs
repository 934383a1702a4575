//! The heads of frames: JSON objects. Bytes (paths, command lines, environments) are base64 in them.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::frame::{Frame, Kind};

/// Bytes that a head carries as base64.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine;
        serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use base64::Engine;
        let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
        let bytes = base64::engine::general_purpose::STANDARD.decode(text.as_bytes());
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

impl From<&[u8]> for Blob {
    fn from(bytes: &[u8]) -> Self {
        Self(bytes.to_vec())
    }
}

/// HELLO of a client.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientHello {
    /// [`super::VERSION`].
    pub version: u32,
    /// The process whose life keeps agents in use: ansible-playbook, which is the worker's parent.
    pub play: u32,
}

/// HELLO of the broker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BrokerHello {
    /// [`super::VERSION`].
    pub version: u32,
    /// The broker's process id.
    pub pid: u32,
    /// Hexadecimal, new for each broker: the key under which clients hash what opens a session.
    pub salt: String,
}

/// HELLO of an agent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AgentHello {
    /// [`super::VERSION`].
    pub version: u32,
    /// Its process id in the container.
    pub pid: u32,
    /// The user it runs as.
    pub uid: u32,
    /// `3.11.2`.
    pub python: String,
    /// `sys.executable`.
    pub executable: String,
    /// Boot id, start time of PID 1 and mount namespace: equal for two streams into the same instance of a container; empty
    /// where /proc does not tell.
    pub instance: String,
    /// Why it will not serve and ends at once, if so: "the container has only 40 MiB of memory to spare".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// ACQUIRE.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Acquire {
    /// Keyed hash (hexadecimal) of what names and opens the target; RESET retires all agents with this.
    pub target: String,
    /// Keyed hash of the same and of the interpreter's line: one agent each.
    pub key: String,
    /// For people: `docker container "web"`.
    pub label: String,
    /// The engine's name; so many may be opened at once per engine.
    pub engine: String,
    /// What it is for, for people: `commands`, or `modules`.
    pub serves: String,
    /// Seconds that the agent stays after the last play that used it.
    pub persist: f64,
    /// Seconds that a ping of an idle agent may take before the agent is given up.
    pub timeout: f64,
    /// It is answered at once: by UNUSABLE without a reason where it would have to wait.
    #[serde(default)]
    pub ahead: bool,
    /// The same where it would not be the target's first agent.
    #[serde(default)]
    pub first: bool,
}

/// START.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// As in [`Adopt`]: where agents of the same target are.
    pub place: Blob,
}

/// AVAILABLE.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Available {
    /// Its number, for REQUEST.
    pub agent: u32,
    /// What it said of itself.
    pub hello: AgentHello,
    /// What its line printed on stdout before the HELLO, as its opener gave it in ADOPT.
    pub stdout: Blob,
    /// The same of stderr.
    pub stderr: Blob,
    /// As in [`Adopt`].
    pub place: Blob,
    /// True when this client opened it just now.
    pub fresh: bool,
}

/// UNUSABLE, and `GIVE_UP` with a reason that holds for everybody.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unusable {
    /// "no Python was found"; `None` in a `GIVE_UP`: only this attempt failed.
    pub reason: Option<String>,
}

/// SPAWN.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spawn {
    /// The executable and its arguments.
    pub argv: Vec<Blob>,
    /// The whole environment.
    pub env: Vec<(Blob, Blob)>,
    /// Where it starts.
    pub cwd: Blob,
    /// Its umask.
    pub umask: u32,
    /// Files that exist only for this process. The broker makes a memfd of each and replaces, in `argv` and in the values of `env`,
    /// the path under which the client knew it.
    pub files: Vec<SpawnFile>,
}

/// A file of [`Spawn`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpawnFile {
    /// `/proc/self/fd/7`, as it stands in the arguments.
    pub path: String,
    /// What is in it.
    pub contents: Blob,
}

/// ENDED.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ended {
    /// Exit status; `None` when a signal ended it, or it could not be started.
    pub code: Option<i32>,
    /// Why it could not be started: an errno.
    pub errno: Option<i32>,
    /// What is in the files of [`Spawn`] now, at most 1 MiB of each.
    pub files: Vec<Blob>,
}

/// ADOPT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adopt {
    /// What the agent said.
    pub hello: AgentHello,
    /// What its line printed before that.
    pub stdout: Blob,
    /// The same of stderr.
    pub stderr: Blob,
    /// Which of several the target's name led to: the pod of `deploy/web`. Empty where a name is one container's.
    #[serde(default)]
    pub place: Blob,
    /// Its key, where ACQUIRE could not know it.
    #[serde(default)]
    pub key: Option<String>,
}

/// GONE and LOST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// What is known of the reason, in words.
    pub said: String,
}

/// RESET.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reset {
    /// As in [`Acquire`].
    pub target: String,
}

/// REQUEST.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "lowercase")]
pub enum Request {
    /// Run `shell -c command`; its stdin is DATA until END. Result: [`Exit::rc`].
    Exec {
        /// The shell's executable.
        shell: Blob,
        /// The command line.
        command: Blob,
    },
    /// Write DATA until END to the file: whole and verified or not at all. Result: [`Exit::done`], or `failed`, `broken`.
    Put {
        /// Absolute.
        path: Blob,
        /// Bytes that will come.
        length: u64,
        /// Of those bytes, hexadecimal.
        sha256: String,
    },
    /// Send the file as STDOUT, its length (as it was at the start) first in STARTED. Result: [`Exit::sha256`], or `missing`, `failed`.
    Fetch {
        /// Absolute.
        path: Blob,
    },
    /// Run a Python program as a new interpreter would, in a child of this (warm) one. Result: [`Exit::rc`], or `plain`.
    Module {
        /// Variables to set in the child alone, in order.
        env: Vec<(Blob, Blob)>,
        /// Where the text is.
        #[serde(flatten)]
        program: Program,
    },
}

/// The text of a Python program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Program {
    /// For `python3 < text`: itself. The parts that the agent lacks it asks for by WANT, and gets them in that order as DATA, then END.
    Parts(Vec<Part>),
    /// For `python3 file`: an absolute path in the container, read by the agent.
    File(Blob),
}

/// A part of a module's text.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Part {
    /// Itself.
    Text {
        /// The bytes.
        text: Blob,
    },
    /// What the agent keeps.
    Kept {
        /// Of the bytes, hexadecimal.
        sha256: String,
        /// How many they are.
        length: u64,
    },
}

/// WANT.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Want {
    /// Which of the parts of kind [`Part::Kept`], counted over all parts from 0.
    pub parts: Vec<usize>,
}

/// STARTED.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Of a command or module: its process, which is also its session.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Of a file that is fetched: its length.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
}

/// EXIT. One of its fields says how the request ended.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Exit {
    /// The exit status, 0 to 255; 128 + n when signal n ended the process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rc: Option<i32>,
    /// The file was written: "ok", or "in place: REASON", with ", which cannot be verified" behind it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<String>,
    /// The file was read whole; of the bytes sent, hexadecimal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// There is no such file.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub missing: bool,
    /// Why not; nothing was changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed: Option<String>,
    /// Why not; the file, which had to be written in place, may be incomplete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub broken: Option<String>,
    /// Nothing was run: this must take the plain way, and why.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub plain: Option<String>,
}

/// DONE.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The broker's process id.
    pub pid: u32,
    /// Seconds since its start.
    pub age: f64,
    /// Its resident memory, in bytes.
    pub rss_bytes: u64,
    /// Those it keeps.
    pub agents: Vec<AgentStatus>,
}

/// One agent in [`Status`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AgentStatus {
    /// As in [`Acquire`].
    pub label: String,
    /// As in [`Acquire`].
    pub serves: String,
    /// `opening`, `ready`, `retiring`.
    pub state: String,
    /// Its process id in the container; 0 while it opens.
    pub pid: u32,
    /// Python's version there.
    pub python: String,
    /// Seconds since it was opened.
    pub age: f64,
    /// Seconds since its last request ended; 0 while one runs.
    pub idle: f64,
    /// Requests that run.
    pub running: u32,
    /// Requests so far.
    pub requests: u64,
    /// The process id of the engine's client here, 0 when there is none.
    pub client_pid: u32,
}

/// A frame with this head.
///
/// # Panics
/// When the head is longer than a payload may be; who takes bytes from a user has checked their length.
pub fn frame(kind: Kind, id: u32, head: &impl Serialize) -> Frame {
    Frame { kind, id, payload: serde_json::to_vec(head).expect("heads are plain data") }
}

/// The head of a frame. What does not parse ends the stream it came on.
pub fn head<T: DeserializeOwned>(frame: &Frame) -> Result<T, serde_json::Error> {
    serde_json::from_slice(&frame.payload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn bytes_survive_a_head(command in prop::collection::vec(any::<u8>(), 0..99)) {
            let request = Request::Exec { shell: Blob(b"/bin/sh".to_vec()), command: Blob(command) };
            let sent = frame(Kind::Request, 1, &request);
            prop_assert_eq!(head::<Request>(&sent).unwrap(), request);
        }

        #[test]
        fn any_bytes_are_a_head_or_refused(payload in prop::collection::vec(any::<u8>(), 0..200)) {
            let frame = Frame { kind: Kind::Request, id: 1, payload };
            let _ = head::<Request>(&frame);
            let _ = head::<Exit>(&frame);
            let _ = head::<Spawn>(&frame);
        }
    }

    #[test]
    fn heads_say_what_they_mean() {
        let text = |head: &Exit| serde_json::to_string(head).unwrap();
        assert_eq!(text(&Exit { rc: Some(0), ..Exit::default() }), r#"{"rc":0}"#);
        let request = Request::Module {
            env: vec![(Blob(b"A".to_vec()), Blob(b"1".to_vec()))],
            program: Program::Parts(vec![
                Part::Text { text: Blob(b"x".to_vec()) },
                Part::Kept { sha256: "ab".to_owned(), length: 2 },
            ]),
        };
        assert_eq!(
            serde_json::to_string(&request).unwrap(),
            r#"{"op":"module","env":[["QQ==","MQ=="]],"parts":[{"text":"eA=="},{"sha256":"ab","length":2}]}"#
        );
        let request = Request::Module { env: vec![], program: Program::File(Blob(b"/x".to_vec())) };
        let text = r#"{"op":"module","env":[],"file":"L3g="}"#;
        assert_eq!(serde_json::to_string(&request).unwrap(), text);
        assert_eq!(serde_json::from_str::<Request>(text).unwrap(), request);
    }
}
