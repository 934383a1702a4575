//! Opening an agent: the broker keeps the stream, this side knows how one is made.
//!
//! It is the direct path's own machinery — the engine's command line, the start mark, the engine's refusals, the become prompt — with
//! the process spawned by the broker, so that it outlives this one. A refusal is the same sentence as ever; only what is wrong with
//! Python itself makes an agent unusable, and the direct path takes over.

use std::io;
use std::mem::take;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::acquire::Purpose;
use super::become_prompt::BecomePlugin;
use super::boot::Boot;
use super::direct::{KILL_TIME, MOST_WORDS, kill_as_any, marked_failure, refused};
use super::escalation::{Answer, Escalation};
use super::key::Place;
use super::script::Script;
use super::{Agents, CommandResult, Session};
use crate::broker::client::{Client, Event, Upload};
use crate::engine::{Engine, Kubectl, Refusal};
use crate::error::{Error, Result, said};
use crate::transport::Interrupt;
use crate::transport::cli::{CommandLine, spawn_error};
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, AgentHello, Blob, Ended, Spawn, SpawnFile};
use crate::wire::{MAX_PAYLOAD, VERSION};

/// How long Python itself may take to start, in a container that has little of a processor.
const PYTHON_START: Duration = Duration::from_secs(45);

/// The largest file that travels in a SPAWN, or back.
const LARGEST_FILE: u64 = 512 << 10;

/// What became of an opening.
pub(super) enum Opened {
    Agent(AgentHello, Vec<u8>, Vec<u8>),
    Unusable(String),
    Result(CommandResult),
    Closed(String),
}

/// A process that the broker was told to start, and what it is to read.
#[derive(Debug)]
pub(super) struct Spawned {
    pub(super) id: u32,
    executable: std::ffi::OsString,
    script: Script,
    boot: Boot,
    pub(super) upload: Upload<'static>,
    start_by: Instant,
}

/// The program of an agent, and the line that runs it.
pub(super) struct Program {
    pub(super) boot: Boot,
    /// It runs the line.
    pub(super) shell: Vec<u8>,
    pub(super) line: Vec<u8>,
}

impl Program {
    pub(super) fn new(session: &Session, agents: &Agents, purpose: Purpose<'_>) -> Result<Self> {
        let interpreter = match purpose {
            Purpose::Commands => b"".as_slice(),
            Purpose::Modules(line) => &line.interpreter,
        };
        let (serves, nonce) = (purpose.serves(), session.nonce()?);
        let boot = Boot::new(nonce, serves, agents.always, agents.kill_on_disconnect, interpreter);
        let (shell, line) = match purpose {
            Purpose::Commands => (b"/bin/sh".to_vec(), boot.find_python(agents.interpreter.as_deref())),
            Purpose::Modules(line) => (session.shell.clone(), line.with_program(boot.program().as_bytes())),
        };
        Ok(Self { boot, shell, line })
    }
}

impl Spawned {
    /// A line that `becomes` reads nothing before its prompt was answered.
    pub(super) fn new(
        session: &mut Session,
        client: &mut Client,
        id: u32,
        program: Program,
        becomes: bool,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Self> {
        session.resolve(interrupt)?;
        let Program { boot, shell, line } = program;
        let script = Script::agent(&session.nonce()?, &shell, &line, session.engine.prelude());
        let line = session.engine.exec(&script.command, true)?;
        let spawn = spawn_head(&line, &session.place)
            .map_err(|source| Error::Stream { target: session.target(), source })?;
        let spawn = message::frame(Kind::Spawn, id, &spawn);
        if spawn.payload.len() > MAX_PAYLOAD {
            // What does not fit into a frame: the direct path has other limits, and says what they are.
            return Err(Error::Spawn {
                target: session.target(),
                executable: line.argv[0].to_string_lossy().into_owned(),
                source: io::Error::other(
                    "its environment and files are larger than a megabyte; set gangway_persist to 0",
                ),
            });
        }
        client.send(&spawn);
        let mut upload = Upload::for_opening(id);
        upload.send(script.stdin.clone());
        if !becomes {
            upload.send(boot.source().to_vec());
        }
        let start_by = Instant::now() + session.timeout;
        Ok(Self { id, executable: line.argv[0].clone(), script, boot, upload, start_by })
    }
}

/// The same, until it says HELLO.
pub(super) struct Opening<'a, 'p> {
    spawned: Spawned,
    session: &'a Session,
    client: &'a mut Client,
    escalation: Escalation<'p>,
    hello_by: Option<Instant>,
    started: bool,
    /// Of its shell in the container, for as long as it may have to be ended.
    pid: Option<u32>,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl<'a, 'p> Opening<'a, 'p> {
    pub(super) fn new(
        spawned: Spawned,
        session: &'a Session,
        client: &'a mut Client,
        become_plugin: Option<&'p mut dyn BecomePlugin>,
    ) -> Self {
        let escalation = Escalation::new(become_plugin, session.timeout);
        Self {
            spawned,
            session,
            client,
            escalation,
            hello_by: None,
            started: false,
            pid: None,
            stdout: Vec::new(),
            stderr: Vec::new(),
        }
    }

    /// What does not become an agent is ended in the container, too: a Python that hangs would not notice that its stdin has ended.
    pub(super) fn run(mut self, interrupt: &mut dyn Interrupt) -> Result<Opened> {
        let opened = self.watch(interrupt);
        if let Some(pid) = self.pid {
            kill_as_any(self.session, pid, Instant::now() + KILL_TIME);
        }
        opened
    }

    fn watch(&mut self, interrupt: &mut dyn Interrupt) -> Result<Opened> {
        loop {
            let deadline = match (self.started, self.escalation.done()) {
                (false, _) => Some(self.spawned.start_by),
                (true, false) => self.escalation.deadline(),
                (true, true) => self.hello_by,
            };
            let frame = match self.client.next(
                self.spawned.id,
                Some(&mut self.spawned.upload),
                deadline,
                interrupt,
            )? {
                Event::Frame(frame) => frame,
                Event::Deadline => return self.late(),
                Event::Closed(said) => return Ok(Opened::Closed(said)),
            };
            match frame.kind {
                Kind::Stdout => self.stdout.extend_from_slice(&frame.payload),
                Kind::Stderr => {
                    self.stderr.extend_from_slice(&frame.payload);
                    if !self.started
                        && let Some((_, end, pid)) = self.spawned.script.find_start(&self.stderr)
                    {
                        self.stderr.drain(..end);
                        (self.started, self.pid) = (true, Some(pid));
                        self.escalation.started();
                        self.hello_by = Some(Instant::now() + PYTHON_START);
                    }
                }
                Kind::Ended => return self.ended(&frame, interrupt),
                kind => return Ok(Opened::Closed(format!("the broker sent {kind:?} during an opening"))),
            }
            if self.stdout.len() + self.stderr.len() > MOST_WORDS {
                return Ok(Opened::Unusable("its line printed a megabyte before Python began".to_owned()));
            }
            if !self.started {
                continue;
            }
            match self.escalation.advance([&mut self.stdout, &mut self.stderr])? {
                Answer::Nothing => {}
                Answer::Password(password) => self.spawned.upload.send(password),
                Answer::Stdin => {
                    self.spawned.upload.send(self.spawned.boot.source().to_vec());
                    self.hello_by = Some(Instant::now() + PYTHON_START);
                }
            }
            if let Some(hello) = self.spawned.boot.find_hello(&self.stdout) {
                return Ok(self.greeted(hello));
            }
        }
    }

    fn greeted(&mut self, hello: std::result::Result<(usize, AgentHello), String>) -> Opened {
        match hello {
            Err(said) => Opened::Unusable(said),
            Ok((_, AgentHello { refused: Some(reason), .. })) => {
                self.pid = None; // it ends by itself
                Opened::Unusable(reason)
            }
            Ok((_, hello)) if hello.version != VERSION => {
                Opened::Unusable(format!("the agent speaks version {} of the frames", hello.version))
            }
            Ok((start, hello)) => {
                self.pid = None;
                self.stdout.truncate(start);
                // A prompt may be answered by other words than the ones that were cut out of it.
                let stderr = take(&mut self.stderr);
                let stderr = if self.escalation.password_sent { Vec::new() } else { stderr };
                Opened::Agent(hello, take(&mut self.stdout), stderr)
            }
        }
    }

    fn late(&mut self) -> Result<Opened> {
        let target = self.session.target();
        if !self.started {
            return Err(Error::StartTimeout { target, seconds: self.session.timeout.as_secs_f64() });
        }
        if !self.escalation.done() {
            return Err(self.escalation.timed_out(target, [&self.stdout, &self.stderr]));
        }
        Ok(Opened::Unusable(format!(
            "Python did not start within {} seconds ({})",
            PYTHON_START.as_secs(),
            said(&self.stderr)
        )))
    }

    /// The process ended without a HELLO.
    fn ended(&mut self, frame: &Frame, interrupt: &mut dyn Interrupt) -> Result<Opened> {
        // A signal to the whole process group may have ended the client, too: then it is the signal that counts.
        interrupt.check()?;
        let pid = self.pid.take();
        let session = self.session;
        let Ok(Ended { code, errno, files }) = message::head(frame) else {
            return Ok(Opened::Closed("the broker sent an ENDED without a head".to_owned()));
        };
        if let Some(errno) = errno {
            let source = io::Error::from_raw_os_error(errno);
            if source.kind() == io::ErrorKind::TimedOut {
                self.pid = pid; // only the engine's client was ended
                return Ok(Opened::Unusable("the broker gave its opening up".to_owned()));
            }
            return Err(spawn_error(
                &session.target(),
                session.engine.name(),
                &self.spawned.executable,
                source,
            ));
        }
        if let Some(error) = marked_failure(session, &self.spawned.script, &self.stderr) {
            return Err(error);
        }
        if !self.started {
            let log = match (&session.engine, files.first()) {
                (Engine::Runc(_), Some(log)) => log.0.as_slice(),
                _ => &[],
            };
            let refusal = Refusal { code, stdout: &self.stdout, stderr: &self.stderr, log };
            return match refused(session, &refusal, interrupt) {
                // Whatever it was, nothing of the task's.
                Error::OutcomeUnknown { said, .. } => Ok(Opened::Unusable(said)),
                error => Err(error),
            };
        }
        if let Some(refused) = self.escalation.refused() {
            return Err(refused);
        }
        if self.escalation.password_sent && !self.escalation.done() {
            // The password is not sent again. What ended here never came to its interpreter, so it is the plain line's own end.
            return match code {
                Some(rc) if rc != 0 => {
                    if matches!(session.engine, Engine::Kubectl(_)) {
                        Kubectl::without_own_words(&mut self.stderr, rc);
                    }
                    Ok(Opened::Result(CommandResult {
                        rc,
                        stdout: take(&mut self.stdout),
                        stderr: take(&mut self.stderr),
                    }))
                }
                _ => Err(Error::OutcomeUnknown { target: session.target(), said: said(&self.stderr) }),
            };
        }
        Ok(Opened::Unusable(if self.spawned.boot.found_none(&self.stdout) {
            "no Python was found in the container".to_owned()
        } else {
            format!(
                "Python could not start ({})",
                said(&[self.stderr.as_slice(), self.stdout.as_slice()].concat())
            )
        }))
    }
}

fn spawn_head(line: &CommandLine, place: &Place) -> io::Result<Spawn> {
    let blob = |text: &std::ffi::OsStr| Blob(text.as_bytes().to_vec());
    let mut env = place.env.clone();
    env.extend(line.env.iter().cloned());
    let files = line.held.iter().map(|file| {
        let contents = file.contents(LARGEST_FILE + 1)?;
        if contents.len() as u64 > LARGEST_FILE {
            return Err(io::Error::other("the configuration for the engine's client is larger than 512 KiB"));
        }
        Ok(SpawnFile { path: file.path().to_string_lossy().into_owned(), contents: Blob(contents) })
    });
    Ok(Spawn {
        argv: line.argv.iter().map(|word| blob(word)).collect(),
        env: env.iter().map(|(name, value)| (blob(name), blob(value))).collect(),
        cwd: blob(place.cwd.as_os_str()),
        umask: place.umask,
        files: files.collect::<io::Result<_>>()?,
    })
}
