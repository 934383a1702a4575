//! Opening an agent: the broker keeps the stream, this side knows how one is made.
//!
//! It is the direct path's own machinery — the engine's command line, the start mark, the engine's refusals, the become prompt — with
//! the process spawned by the broker, so that it outlives this one. A refusal is the same sentence as ever; only what is wrong with
//! Python itself makes an agent unusable, and the direct path takes over.

use std::io;
use std::mem::take;
use std::os::unix::ffi::OsStrExt;
use std::time::{Duration, Instant};

use super::become_prompt::BecomePlugin;
use super::boot::{Boot, Serves};
use super::direct::{KILL_TIME, MOST_WORDS, kill_as_any, marked_failure, refused};
use super::escalation::{Answer, Escalation};
use super::key::{Place, keyed};
use super::line::PythonLine;
use super::script::Script;
use super::{Agents, CommandResult, Session};
use crate::broker::client::{Client, Event, Upload};
use crate::engine::{Engine, Kubectl, Refusal};
use crate::error::{Error, Result, said};
use crate::sys;
use crate::transport::Interrupt;
use crate::transport::cli::{CommandLine, spawn_error};
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{
    self, Acquire, Adopt, AgentHello, Available, Blob, Ended, Spawn, SpawnFile, Unusable,
};
use crate::wire::{MAX_PAYLOAD, VERSION};

/// How long somebody else's opening of this agent, and all before it at this engine, may take.
const QUEUE: Duration = Duration::from_secs(300);

/// How long Python itself may take to start, in a container that has little of a processor.
const PYTHON_START: Duration = Duration::from_secs(45);

/// How long the broker may take to answer what needs nobody else.
const ANSWER: Duration = Duration::from_secs(30);

/// The largest file that travels in a SPAWN, or back.
const LARGEST_FILE: u64 = 512 << 10;

/// An agent that takes requests.
#[derive(Debug)]
pub(super) struct Agent {
    /// For REQUEST.
    pub(super) number: u32,
    pub(super) hello: AgentHello,
    /// What its line printed before, as [`PythonLine::without_id`].
    pub(super) stdout: Vec<u8>,
    pub(super) stderr: Vec<u8>,
    /// True when this task opened it.
    pub(super) fresh: bool,
}

/// How asking for an agent ended.
#[derive(Debug)]
pub(super) enum Acquired {
    Agent(Agent),
    /// There can be none: why.
    Unusable(String),
    /// The line was given its password and ended by itself, without having run anything behind it: its result.
    Result(CommandResult),
    /// The connection to the broker was lost; nothing was run.
    Closed(String),
}

/// What an agent is wanted for.
#[derive(Clone, Copy, Debug)]
pub(super) enum Purpose<'l> {
    Commands,
    Modules(&'l PythonLine),
}

impl Purpose<'_> {
    fn serves(self) -> Serves {
        match self {
            Self::Commands => Serves::Commands,
            Self::Modules(_) => Serves::Modules,
        }
    }
}

/// The hash that names a target, for ACQUIRE and RESET.
pub(super) fn target_key(session: &Session, salt: &str) -> String {
    keyed(salt, &session.identity, &"target")
}

fn agent_key(
    session: &Session,
    agents: &Agents,
    salt: &str,
    purpose: Purpose<'_>,
    become_plugin: Option<&dyn BecomePlugin>,
) -> String {
    let common = (purpose.serves().name(), agents.always, agents.kill_on_disconnect);
    match purpose {
        Purpose::Commands => keyed(salt, &session.identity, &(common, &agents.interpreter)),
        Purpose::Modules(line) => {
            // A wrong password opens nothing, whoever gave the right one before.
            let password = become_plugin.map(|plugin| (plugin.name(), plugin.password()));
            keyed(salt, &session.identity, &(common, &agents.controller, &session.shell, &line.key, password))
        }
    }
}

/// What was asked for ahead of its use.
#[derive(Debug)]
pub(super) enum Begun {
    Answered(Acquired),
    Spawned(Box<Spawned>),
}

/// Asks for the agent for commands, and starts opening it when it is this task that has to; [`acquire`] takes it from there.
pub(super) fn begin(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    interrupt: &mut dyn Interrupt,
) -> Result<Begun> {
    let id = client.new_id();
    if let Some(acquired) = ask(session, agents, client, id, Purpose::Commands, None, interrupt)? {
        return Ok(Begun::Answered(acquired));
    }
    match Spawned::new(session, agents, client, id, Purpose::Commands, false, interrupt) {
        Ok(mut spawned) => {
            client.flush_upload(&mut spawned.upload);
            Ok(Begun::Spawned(Box::new(spawned)))
        }
        Err(error) => {
            give_up(client, id, None);
            Err(error)
        }
    }
}

/// Asks for an agent: the answer, or `None` when this task has to open it.
fn ask(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    id: u32,
    purpose: Purpose<'_>,
    become_plugin: Option<&dyn BecomePlugin>,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Acquired>> {
    let asked = Acquire {
        target: target_key(session, client.salt()),
        key: agent_key(session, agents, client.salt(), purpose, become_plugin),
        label: session.target(),
        engine: session.engine.name().to_owned(),
        serves: purpose.serves().name().to_owned(),
        persist: agents.persist,
        timeout: session.timeout.as_secs_f64(),
    };
    client.send(&message::frame(Kind::Acquire, id, &asked));
    let acquired = match client.next(id, None, Some(Instant::now() + QUEUE), interrupt)? {
        Event::Frame(frame) if frame.kind == Kind::Start => {
            let message::Start { place } = message::head(&frame).unwrap_or_default();
            session.stay_at(&place.0);
            return Ok(None);
        }
        Event::Frame(frame) => answered(session, &frame),
        Event::Closed(said) => Acquired::Closed(said),
        Event::Deadline => Acquired::Closed(format!("no agent within {} seconds", QUEUE.as_secs())),
    };
    Ok(Some(acquired))
}

fn give_up(client: &mut Client, id: u32, reason: Option<String>) {
    client.send(&message::frame(Kind::GiveUp, id, &Unusable { reason }));
    client.flush();
}

/// Gets the agent for `purpose`, and opens it when it is this task that has to.
pub(super) fn acquire(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    purpose: Purpose<'_>,
    mut become_plugin: Option<&mut dyn BecomePlugin>,
    interrupt: &mut dyn Interrupt,
) -> Result<Acquired> {
    let begun = if matches!(purpose, Purpose::Commands) { session.begun.take() } else { None };
    let (id, mut spawned) = match begun {
        Some(Begun::Answered(acquired)) => return Ok(acquired),
        Some(Begun::Spawned(spawned)) => (spawned.id, Some(*spawned)),
        None => {
            let id = client.new_id();
            let plugin = become_plugin.as_deref();
            match ask(session, agents, client, id, purpose, plugin, interrupt)? {
                Some(acquired) => return Ok(acquired),
                None => (id, None),
            }
        }
    };
    let mut open = |session: &mut Session, client: &mut Client, interrupt: &mut dyn Interrupt| {
        let becomes = become_plugin.is_some();
        let spawned = match spawned.take() {
            Some(spawned) => spawned,
            None => Spawned::new(session, agents, client, id, purpose, becomes, interrupt)?,
        };
        let plugin = become_plugin.as_mut().map(|plugin| &mut **plugin as &mut dyn BecomePlugin);
        Opening::new(spawned, session, client, plugin).run(interrupt)
    };
    let opened = match open(session, client, interrupt) {
        Err(error) if error.is_of_a_lost_place() && session.look_elsewhere() => {
            open(session, client, interrupt)
        }
        opened => opened,
    };
    let (hello, stdout, stderr) = match opened {
        Ok(Opened::Agent(hello, stdout, stderr)) => (hello, stdout, stderr),
        Ok(Opened::Unusable(reason)) => {
            give_up(client, id, Some(reason.clone()));
            return Ok(Acquired::Unusable(reason));
        }
        Ok(Opened::Closed(said)) => return Ok(Acquired::Closed(said)),
        Ok(Opened::Result(result)) => {
            give_up(client, id, None);
            return Ok(Acquired::Result(result));
        }
        Err(error) => {
            give_up(client, id, None);
            return Err(error);
        }
    };
    let (stdout, stderr) = match purpose {
        Purpose::Commands => (Vec::new(), Vec::new()),
        Purpose::Modules(line) => (line.without_id(&stdout), line.without_id(&stderr)),
    };
    client.send(&message::frame(
        Kind::Adopt,
        id,
        &Adopt { hello, stdout: Blob(stdout), stderr: Blob(stderr), place: Blob(session.led_to.clone()) },
    ));
    match client.next(id, None, Some(Instant::now() + ANSWER), interrupt)? {
        Event::Frame(frame) => Ok(answered(session, &frame)),
        Event::Closed(said) => Ok(Acquired::Closed(said)),
        Event::Deadline => Ok(Acquired::Closed("the broker does not answer".to_owned())),
    }
}

fn answered(session: &mut Session, frame: &Frame) -> Acquired {
    match frame.kind {
        Kind::Available => {
            if let Ok(Available { agent, hello, stdout, stderr, place, fresh }) = message::head(frame) {
                session.stay_at(&place.0);
                session.instance.clone_from(&hello.instance);
                return Acquired::Agent(Agent {
                    number: agent,
                    hello,
                    stdout: stdout.0,
                    stderr: stderr.0,
                    fresh,
                });
            }
        }
        Kind::Unusable => {
            if let Ok(Unusable { reason }) = message::head(frame) {
                return Acquired::Unusable(reason.unwrap_or_else(|| "no agent could be opened".to_owned()));
            }
        }
        // It ended between its HELLO and its adoption.
        Kind::Ended | Kind::Gone => return Acquired::Closed("the agent ended at once".to_owned()),
        _ => {}
    }
    Acquired::Closed(format!("the broker sent {:?} where it answers", frame.kind))
}

/// What became of an opening.
enum Opened {
    Agent(AgentHello, Vec<u8>, Vec<u8>),
    Unusable(String),
    Result(CommandResult),
    Closed(String),
}

/// A process that the broker was told to start, and what it is to read.
#[derive(Debug)]
pub(super) struct Spawned {
    id: u32,
    executable: std::ffi::OsString,
    script: Script,
    boot: Boot,
    upload: Upload<'static>,
    start_by: Instant,
}

impl Spawned {
    /// A line that `becomes` reads nothing before its prompt was answered.
    fn new(
        session: &mut Session,
        agents: &Agents,
        client: &mut Client,
        id: u32,
        purpose: Purpose<'_>,
        becomes: bool,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Self> {
        session.resolve(interrupt)?;
        let random = |()| sys::nonce().map_err(|source| Error::Stream { target: session.target(), source });
        let serves = purpose.serves();
        let interpreter = match purpose {
            Purpose::Commands => b"".as_slice(),
            Purpose::Modules(line) => &line.interpreter,
        };
        let boot = Boot::new(random(())?, serves, agents.always, agents.kill_on_disconnect, interpreter);
        let (shell, line) = match purpose {
            Purpose::Commands => (b"/bin/sh".as_slice(), boot.find_python(agents.interpreter.as_deref())),
            Purpose::Modules(line) => {
                (session.shell.as_slice(), line.with_program(boot.program().as_bytes()))
            }
        };
        let script = Script::agent(&random(())?, shell, &line, session.engine.prelude());
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
struct Opening<'a, 'p> {
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
    fn new(
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
    fn run(mut self, interrupt: &mut dyn Interrupt) -> Result<Opened> {
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
