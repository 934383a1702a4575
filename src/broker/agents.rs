//! Agents: processes that speak frames, and the requests that they serve.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use super::outbox::Balance;
use super::server::{Broker, Route};
use crate::wire::frame::{Frame, Frames, Kind};
use crate::wire::message::{self, Acquire, Adopt, Available, Lost};

/// An agent that was silent for this long is asked whether it is there before a request is written to it.
const FRESH: Duration = Duration::from_millis(100);
/// An agent that hears nothing for four times this takes its broker for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A request whose client has gone keeps its agent in use for so long at most.
const ABANDONED: Duration = Duration::from_secs(30);
/// The longest head that an agent has a reason to send.
const LONGEST_HEAD: usize = 64 << 10;

/// A process that was adopted.
#[derive(Debug)]
pub(super) struct Agent {
    pub(super) acquire: Acquire,
    pub(super) adopt: Adopt,
    frames: Frames,
    pub(super) since: Instant,
    /// When its last request ended, or it was last given to a client.
    pub(super) used: Instant,
    /// The plays that were given it and live.
    pub(super) plays: HashSet<u32>,
    pub(super) requests: HashMap<u32, Request>,
    pub(super) total: u64,
    pub(super) retiring: bool,
    /// Its opener's connection, when nobody else may use it.
    only_for: Option<u64>,
    next: u32,
    heard: Instant,
    pinged: Instant,
    pings: u64,
    pongs: u64,
}

/// One request, as it stands at its agent.
#[derive(Debug)]
pub(super) struct Request {
    client: Option<(u64, u32)>,
    abandoned: Option<Instant>,
    state: State,
    to_agent: Balance,
    from_agent: Balance,
    input: Input,
    started: bool,
    wanted: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Input {
    Open,
    Finished,
    Cancelled,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Not before the agent has answered the ping of this number, and not after that time.
    Pinging(u64, Instant),
    /// In the outbox.
    Queued,
    /// Nobody can say any more that nothing was run.
    Written,
}

impl Agent {
    pub(super) fn new(acquire: Acquire, adopt: Adopt, only_for: Option<u64>) -> Self {
        let now = Instant::now();
        Self {
            acquire,
            adopt,
            frames: Frames::default(),
            since: now,
            used: now,
            plays: HashSet::new(),
            requests: HashMap::new(),
            total: 0,
            retiring: false,
            only_for,
            next: 1,
            heard: now,
            pinged: now,
            pings: 0,
            pongs: 0,
        }
    }

    /// Whether a client may get it for a key.
    pub(super) fn is_ready(&self) -> bool {
        !self.retiring && self.only_for.is_none()
    }

    /// Requests that somebody waits for, or that were abandoned just now.
    pub(super) fn running(&self, now: Instant) -> usize {
        let counts =
            |request: &&Request| request.abandoned.is_none_or(|since| now.duration_since(since) < ABANDONED);
        self.requests.values().filter(counts).count()
    }

    /// Whether its time is over.
    pub(super) fn is_expired(&self, now: Instant) -> bool {
        let persist = Duration::try_from_secs_f64(self.acquire.persist).unwrap_or(Duration::MAX);
        self.plays.is_empty() && self.running(now) == 0 && now.duration_since(self.used) >= persist
    }

    /// AVAILABLE, from now on also in use by that play.
    pub(super) fn given(&mut self, number: u32, id: u32, play: Option<u32>, fresh: bool) -> Frame {
        self.used = Instant::now();
        self.plays.extend(play);
        let Adopt { hello, stdout, stderr, place, .. } = self.adopt.clone();
        message::frame(Kind::Available, id, &Available { agent: number, hello, stdout, stderr, place, fresh })
    }
}

impl Broker {
    /// A client's REQUEST.
    pub(super) fn request(&mut self, client: u64, frame: &Frame) -> Result<(), String> {
        let id = frame.id;
        let Some((number, head)) = frame.payload.split_first_chunk::<4>() else {
            return Err("a REQUEST without an agent".to_owned());
        };
        let number = u32::from_be_bytes(*number);
        let known = self.clients.get(&client).is_some_and(|client| client.acquired.contains(&number));
        let Some(agent) = self.agents.get_mut(&number).filter(|agent| known && !agent.retiring) else {
            self.tell(client, Kind::Gone, id, &Lost { said: "it has ended".to_owned() });
            return Ok(());
        };
        let Some(process) = self.processes.get_mut(&number) else { return Ok(()) };
        let now = Instant::now();
        let at_agent = agent.next;
        agent.next += 1;
        if agent.next == u32::MAX {
            agent.retiring = true; // ids are never used twice
            self.keys.retain(|_, kept| *kept != number);
        }
        let state = if now.duration_since(agent.heard) > FRESH {
            agent.pings += 1;
            agent.pinged = now;
            process.outbox.urgent(Frame::empty(Kind::Ping, 0));
            process.outbox.hold(at_agent);
            let timeout = Duration::try_from_secs_f64(agent.acquire.timeout).unwrap_or(Duration::MAX);
            State::Pinging(agent.pings, now.checked_add(timeout).unwrap_or(now + HEARTBEAT))
        } else {
            State::Queued
        };
        agent.requests.insert(
            at_agent,
            Request {
                client: Some((client, id)),
                abandoned: None,
                state,
                to_agent: Balance::FULL,
                from_agent: Balance::FULL,
                input: Input::Open,
                started: false,
                wanted: false,
            },
        );
        agent.total += 1;
        process.outbox.push(&Frame { kind: Kind::Request, id: at_agent, payload: head.to_vec() });
        process.poke.notify_one();
        self.route(client, id, Route::Request { agent: number, id: at_agent })
    }

    /// DATA, END, CREDIT or CANCEL of a client for a request.
    pub(super) fn request_frame(&mut self, number: u32, id: u32, frame: Frame) -> Result<(), String> {
        let (Some(agent), Some(process)) = (self.agents.get_mut(&number), self.processes.get_mut(&number))
        else {
            return Ok(());
        };
        let Some(request) = agent.requests.get_mut(&id) else { return Ok(()) };
        let written = request.state == State::Written;
        match frame.kind {
            Kind::Data | Kind::End if request.input != Input::Open => {}
            Kind::Data if !request.to_agent.spend(frame.payload.len()) => {
                return Err("DATA without credit".to_owned());
            }
            Kind::Data if frame.payload.is_empty() => {}
            Kind::Data => process.outbox.push(&Frame { id, ..frame }),
            Kind::End => {
                request.input = Input::Finished;
                process.outbox.push(&Frame::empty(Kind::End, id));
            }
            Kind::Credit => {
                let bytes = frame.credited().filter(|bytes| request.from_agent.add(*bytes));
                let bytes = bytes.ok_or("CREDIT for more than was used")?;
                if written {
                    process.outbox.credit(id, bytes);
                } else {
                    process.outbox.push(&Frame::credit(id, bytes));
                }
            }
            Kind::Cancel if !written => {
                if let Some(request) = agent.requests.remove(&id) {
                    process.outbox.forget(id);
                    self.gone(&request, "it was cancelled before it had begun");
                    self.rest(number);
                }
                return Ok(());
            }
            Kind::Cancel => cancel(request, &mut process.outbox, id),
            kind => return Err(format!("{kind:?} for a request")),
        }
        process.poke.notify_one();
        Ok(())
    }

    /// The client of a request has gone.
    pub(super) fn abandon(&mut self, number: u32, id: u32) {
        let (Some(agent), Some(process)) = (self.agents.get_mut(&number), self.processes.get_mut(&number))
        else {
            return;
        };
        let Some(request) = agent.requests.get_mut(&id) else { return };
        request.client = None;
        if request.state == State::Written {
            request.abandoned = Some(Instant::now());
            cancel(request, &mut process.outbox, id);
            process.poke.notify_one();
        } else {
            agent.requests.remove(&id);
            process.outbox.forget(id);
            self.rest(number);
        }
    }

    /// The first bytes of these REQUESTs were written.
    pub(super) fn begun(&mut self, number: u32, ids: &[u32]) {
        let Some(agent) = self.agents.get_mut(&number) else { return };
        for id in ids {
            if let Some(request) = agent.requests.get_mut(id) {
                request.state = State::Written;
            }
        }
    }

    /// An agent's stdout.
    pub(super) fn agent_said(&mut self, number: u32, bytes: &[u8]) {
        let Some(agent) = self.agents.get_mut(&number) else { return };
        agent.heard = Instant::now();
        agent.frames.push(bytes);
        loop {
            let Some(agent) = self.agents.get_mut(&number) else { return };
            let result = match agent.frames.next_frame() {
                Ok(Some(frame)) => self.agent_frame(number, frame),
                Ok(None) => break,
                Err(error) => Err(error.to_string()),
            };
            if let Err(why) = result {
                self.end_agent(number, &format!("it broke the protocol: {why}"));
                return;
            }
        }
        if agent_is_quiet(self.agents.get_mut(&number)) {
            self.rest(number);
        }
    }

    fn agent_frame(&mut self, number: u32, frame: Frame) -> Result<(), String> {
        let (Some(agent), Some(process)) = (self.agents.get_mut(&number), self.processes.get_mut(&number))
        else {
            return Ok(());
        };
        let (kind, id) = (frame.kind, frame.id);
        if kind == Kind::Pong {
            agent.pongs = agent.pings.min(agent.pongs + 1);
            for (id, request) in &mut agent.requests {
                if matches!(request.state, State::Pinging(ping, _) if ping <= agent.pongs) {
                    request.state = State::Queued;
                    process.outbox.release(*id);
                }
            }
            process.poke.notify_one();
            return Ok(());
        }
        let Some(request) = agent.requests.get_mut(&id).filter(|request| request.state == State::Written)
        else {
            return Err(format!("{kind:?} for a request that it was not given"));
        };
        let length = frame.payload.len();
        match kind {
            Kind::Stdout | Kind::Stderr => {
                if !request.from_agent.spend(length) {
                    return Err(format!("{kind:?} without credit"));
                }
                if length == 0 {
                    return Ok(());
                }
                if request.client.is_none() {
                    // Nobody reads it, and the agent may have to write it before it can end the request.
                    let length = u32::try_from(length).unwrap_or(u32::MAX);
                    let _ = request.from_agent.add(length);
                    process.outbox.credit(id, length);
                    process.poke.notify_one();
                }
            }
            Kind::Credit => {
                let bytes = frame.credited().filter(|bytes| request.to_agent.add(*bytes));
                let bytes = bytes.ok_or("CREDIT for more than was sent")?;
                if let Some((client, at_client)) = request.client
                    && let Some(client) = self.clients.get_mut(&client)
                {
                    client.outbox.credit(at_client, bytes);
                    client.poke.notify_one();
                }
                return Ok(());
            }
            Kind::Started if !std::mem::replace(&mut request.started, true) && length <= LONGEST_HEAD => {}
            Kind::Want if !std::mem::replace(&mut request.wanted, true) && length <= LONGEST_HEAD => {}
            Kind::Exit if length <= LONGEST_HEAD => {}
            kind => return Err(format!("an unexpected {kind:?} of {length} bytes")),
        }
        let client = request.client;
        if kind == Kind::Exit {
            agent.requests.remove(&id);
            agent.used = Instant::now();
            process.outbox.forget(id);
        }
        if let Some((client, at_client)) = client {
            if kind == Kind::Exit {
                self.unroute(client, at_client);
            }
            self.send(client, &Frame { id: at_client, ..frame });
        }
        Ok(())
    }

    /// After the end of a request: ends an agent that had nothing else to wait for.
    pub(super) fn rest(&mut self, number: u32) {
        let over = |agent: &Agent| agent.retiring && agent.requests.is_empty();
        if self.agents.get(&number).is_some_and(over) {
            self.end_agent(number, "it was retired");
        }
    }

    /// No new request for this agent; it ends when its running ones have.
    pub(super) fn retire(&mut self, number: u32, why: &str) {
        self.keys.retain(|_, kept| *kept != number);
        let (Some(agent), Some(process)) = (self.agents.get_mut(&number), self.processes.get_mut(&number))
        else {
            return;
        };
        if !std::mem::replace(&mut agent.retiring, true) {
            process.outbox.urgent(Frame::empty(Kind::Retire, 0));
            process.poke.notify_one();
        }
        self.drop_unwritten(number, why);
        self.rest(number);
    }

    /// GONE for every request of which nothing was written.
    fn drop_unwritten(&mut self, number: u32, why: &str) {
        let (Some(agent), Some(process)) = (self.agents.get_mut(&number), self.processes.get_mut(&number))
        else {
            return;
        };
        let dropped: Vec<_> =
            agent.requests.extract_if(|_, request| request.state != State::Written).collect();
        for (id, _) in &dropped {
            process.outbox.forget(*id);
        }
        for (_, request) in dropped {
            self.gone(&request, why);
        }
    }

    fn gone(&mut self, request: &Request, why: &str) {
        if let Some((client, id)) = request.client {
            self.unroute(client, id);
            self.tell(client, Kind::Gone, id, &Lost { said: why.to_owned() });
        }
    }

    /// Nothing can be written to it, or nothing more comes from it: what was not written never will be.
    pub(super) fn silence(&mut self, number: u32) {
        self.keys.retain(|_, kept| *kept != number);
        if let Some(agent) = self.agents.get_mut(&number) {
            agent.retiring = true;
            self.drop_unwritten(number, "it has ended");
        }
    }

    /// Ends an agent and what runs on it, as far as this side is concerned.
    pub(super) fn end_agent(&mut self, number: u32, why: &str) {
        self.silence(number);
        let Some(agent) = self.agents.remove(&number) else { return };
        if let Some(process) = self.processes.get_mut(&number) {
            process.end();
        }
        let label = &agent.acquire.label;
        let lost = agent.requests.values().filter(|request| request.client.is_some()).count();
        self.log.say(&format!("agent {number} of {label} ended after {} requests, {lost} lost", agent.total));
        for request in agent.requests.into_values() {
            if let Some((client, id)) = request.client {
                self.unroute(client, id);
                self.tell(client, Kind::Lost, id, &Lost { said: why.to_owned() });
            }
        }
    }

    /// What time brings for agents.
    pub(super) fn agents_tick(&mut self, now: Instant) {
        let numbers: Vec<u32> = self.agents.keys().copied().collect();
        for number in numbers {
            let (Some(agent), Some(process)) =
                (self.agents.get_mut(&number), self.processes.get_mut(&number))
            else {
                continue;
            };
            if now.duration_since(agent.pinged) >= HEARTBEAT {
                agent.pinged = now;
                // One that has not answered the last one, as in a paused container, gets no heap of them.
                if agent.pongs == agent.pings {
                    agent.pings += 1;
                    process.outbox.urgent(Frame::empty(Kind::Ping, 0));
                    process.poke.notify_one();
                }
            }
            let late = |request: &Request| matches!(request.state, State::Pinging(_, until) if until <= now);
            let silent = agent.requests.values().any(late);
            let client_left = agent.only_for.is_some_and(|client| !self.clients.contains_key(&client));
            if silent {
                // Those that run may end well: a paused container goes on some day.
                let why = format!("it did not answer within {} seconds", agent.acquire.timeout);
                self.retire(number, &why);
            } else if agent.is_expired(now) {
                self.end_agent(number, "nobody needed it any more");
            } else if client_left {
                self.retire(number, "its target was reset");
            }
        }
    }
}

fn cancel(request: &mut Request, outbox: &mut super::outbox::Outbox, id: u32) {
    if std::mem::replace(&mut request.input, Input::Cancelled) != Input::Cancelled {
        outbox.forget(id); // nobody will read it
        outbox.urgent(Frame::empty(Kind::Cancel, id));
    }
}

/// True when nothing runs there; gives back what a large frame has taken.
fn agent_is_quiet(agent: Option<&mut Agent>) -> bool {
    agent.is_some_and(|agent| {
        if agent.frames.is_empty() {
            agent.frames = Frames::default();
        }
        agent.requests.is_empty()
    })
}
