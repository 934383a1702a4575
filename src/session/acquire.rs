//! Asking the broker for an agent: one that is there, or leave to open it, which is [`super::open`].

use std::time::{Duration, Instant};

use super::become_prompt::BecomePlugin;
use super::boot::Serves;
use super::key::keyed;
use super::line::PythonLine;
use super::open::{Opened, Opening, Spawned};
use super::{Agents, CommandResult, Session};
use crate::broker::client::{Client, Event};
use crate::error::Result;
use crate::transport::Interrupt;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Acquire, Adopt, AgentHello, Available, Blob, Unusable};

/// How long somebody else's opening of this agent, and all before it at this engine, may take.
const QUEUE: Duration = Duration::from_secs(300);

/// The same for what is asked ahead of its use: whoever would have to queue does something else meanwhile, and asks again.
const AHEAD: Duration = Duration::from_millis(50);

/// How long the broker may take to answer what needs nobody else.
const ANSWER: Duration = Duration::from_secs(30);

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
    pub(super) fn serves(self) -> Serves {
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
    let id = match ask(session, agents, client, Purpose::Commands, None, AHEAD, interrupt)? {
        Asked::Answered(acquired) => return Ok(Begun::Answered(acquired)),
        Asked::Open(id) => id,
    };
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

/// What the broker says to a question for an agent.
enum Asked {
    Answered(Acquired),
    /// This task has to open it, under this id.
    Open(u32),
}

/// Asks for an agent; at most for `queue`.
fn ask(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    purpose: Purpose<'_>,
    become_plugin: Option<&dyn BecomePlugin>,
    queue: Duration,
    interrupt: &mut dyn Interrupt,
) -> Result<Asked> {
    let id = client.new_id();
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
    let acquired = match client.next(id, None, Some(Instant::now() + queue), interrupt)? {
        Event::Frame(frame) if frame.kind == Kind::Start => {
            let message::Start { place } = message::head(&frame).unwrap_or_default();
            session.stay_at(&place.0);
            return Ok(Asked::Open(id));
        }
        Event::Frame(frame) => answered(session, &frame),
        Event::Closed(said) => Acquired::Closed(said),
        Event::Deadline => Acquired::Closed(format!("no agent within {} seconds", queue.as_secs())),
    };
    Ok(Asked::Answered(acquired))
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
            let plugin = become_plugin.as_deref();
            match ask(session, agents, client, purpose, plugin, QUEUE, interrupt)? {
                Asked::Answered(acquired) => return Ok(acquired),
                Asked::Open(id) => (id, None),
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
