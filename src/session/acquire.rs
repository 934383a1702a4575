//! Asking the broker for an agent: one that is there, or leave to open it, which is [`super::open`].

use std::time::{Duration, Instant};

use super::ahead::{self, Begun};
use super::become_prompt::BecomePlugin;
use super::boot::Serves;
use super::key::keyed;
use super::line::PythonLine;
use super::open::{Opened, Opening, Program, Spawned};
use super::{Agents, CommandResult, Session};
use crate::broker::client::{Client, Event};
use crate::error::Result;
use crate::transport::Interrupt;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Acquire, Adopt, AgentHello, Available, Blob, Unusable};

/// How long somebody else's opening of this agent, and all before it at this engine, may take.
const QUEUE: Duration = Duration::from_secs(300);

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

pub(super) fn agent_key(
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

/// What the broker says to a question for an agent.
pub(super) enum Asked {
    Answered(Acquired),
    /// This task has to open it, under this id.
    Open(u32),
}

/// Whether somebody waits for an agent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asking {
    ToUse,
    Ahead,
    /// Ahead, and only for the target's first.
    OnAGuess,
}

/// A question for an agent.
pub(super) struct Question {
    pub(super) key: String,
    pub(super) serves: Serves,
    pub(super) how: Asking,
}

/// Asks for an agent.
pub(super) fn ask(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    question: Question,
    interrupt: &mut dyn Interrupt,
) -> Result<Asked> {
    let Question { key, serves, how } = question;
    let within = if how == Asking::ToUse { QUEUE } else { ANSWER };
    let id = client.new_id();
    let asked = Acquire {
        target: target_key(session, client.salt()),
        key,
        label: session.target(),
        engine: session.engine.name().to_owned(),
        serves: serves.name().to_owned(),
        persist: agents.persist,
        timeout: session.timeout.as_secs_f64(),
        ahead: how != Asking::ToUse,
        first: how == Asking::OnAGuess,
    };
    client.send(&message::frame(Kind::Acquire, id, &asked));
    let acquired = match client.next(id, None, Some(Instant::now() + within), interrupt)? {
        Event::Frame(frame) if frame.kind == Kind::Start => {
            let message::Start { place } = message::head(&frame).unwrap_or_default();
            session.stay_at(&place.0);
            return Ok(Asked::Open(id));
        }
        Event::Frame(frame) => answered(session, &frame),
        Event::Closed(said) => Acquired::Closed(said),
        Event::Deadline => Acquired::Closed(format!("no agent within {} seconds", within.as_secs())),
    };
    Ok(Asked::Answered(acquired))
}

pub(super) fn give_up(client: &mut Client, id: u32, reason: Option<String>) {
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
    let begun = match purpose {
        Purpose::Commands => session.begun.take(),
        Purpose::Modules(line) if become_plugin.is_none() => {
            if let Some(acquired) = ahead::guessed(session, agents, client, line, interrupt)? {
                return Ok(acquired);
            }
            None
        }
        Purpose::Modules(_) => None,
    };
    let (id, mut spawned) = match begun {
        Some(Begun::Answered(acquired)) => return Ok(acquired),
        Some(Begun::Spawned(spawned)) => (spawned.id, Some(*spawned)),
        None => {
            let key = agent_key(session, agents, client.salt(), purpose, become_plugin.as_deref());
            let question = Question { key, serves: purpose.serves(), how: Asking::ToUse };
            match ask(session, agents, client, question, interrupt)? {
                Asked::Answered(acquired) => return Ok(acquired),
                Asked::Open(id) => (id, None),
            }
        }
    };
    let mut open = |session: &mut Session, client: &mut Client, interrupt: &mut dyn Interrupt| {
        let becomes = become_plugin.is_some();
        let spawned = if let Some(spawned) = spawned.take() {
            spawned
        } else {
            let program = Program::new(session, agents, purpose)?;
            Spawned::new(session, client, id, program, becomes, interrupt)?
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
    let said = match purpose {
        Purpose::Commands => (Vec::new(), Vec::new()),
        Purpose::Modules(line) => (line.without_id(&stdout), line.without_id(&stderr)),
    };
    adopt(session, client, id, hello, said, None, interrupt)
}

/// Makes an opening an agent that everybody may have; `said` is what its line printed, `key` what the question could not know.
pub(super) fn adopt(
    session: &mut Session,
    client: &mut Client,
    id: u32,
    hello: AgentHello,
    said: (Vec<u8>, Vec<u8>),
    key: Option<String>,
    interrupt: &mut dyn Interrupt,
) -> Result<Acquired> {
    let (stdout, stderr) = (Blob(said.0), Blob(said.1));
    let adopt = Adopt { hello, stdout, stderr, place: Blob(session.led_to.clone()), key };
    client.send(&message::frame(Kind::Adopt, id, &adopt));
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
