//! What the broker knows, and what it does about each frame of a client.
//!
//! One thread, one state: the tasks that read and write ([`super::daemon`], [`super::process`]) call in here and never hold the
//! state over an await. Nothing here waits.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::process::ExitStatus;
use std::rc::Rc;
use std::time::Instant;

use rustix::process::Rlimit;
use serde::Serialize;
use tokio::sync::Notify;

use super::agents::Agent;
use super::log::Log;
use super::openings::{Opening, Openings, Waiting};
use super::outbox::Outbox;
use super::plays::Plays;
use super::process::{self, Output, Process};
use crate::wire::VERSION;
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Acquire, Adopt, ClientHello, Ended, Reset, Spawn, Status, Unusable};

/// What one client may have under way at once: a worker has one or two.
const MOST_IDS: usize = 256;
/// What a process may leave unread of its stdin before it is adopted.
const MOST_INPUT: usize = 4 << 20;
/// What a client may leave unread of what such a process says, before that is not read any more.
const MOST_OUTPUT: usize = 256 << 10;
/// The longest piece read from a pipe or a socket.
const BUFFER: usize = 64 << 10;
/// What ADOPT may hold of what an agent's line printed.
const LONGEST_PRELUDE: usize = 256 << 10;

pub(super) type Shared = Rc<RefCell<Broker>>;

/// The state.
#[derive(Debug)]
pub(super) struct Broker {
    pub(super) salt: String,
    pub(super) started: Instant,
    pub(super) log: Log,
    /// The limit of open files that the broker was started with: its children's.
    pub(super) nofile: Rlimit,
    /// How many processes it may have.
    pub(super) budget: usize,
    pub(super) clients: HashMap<u64, Client>,
    /// When there last was an agent, an opening or a client that came for one.
    pub(super) needed: Instant,
    next_client: u64,
    pub(super) processes: HashMap<u32, Process>,
    next_process: u32,
    /// Those of the processes that were adopted and not ended.
    pub(super) agents: HashMap<u32, Agent>,
    /// The agent that clients with this key are given.
    pub(super) keys: HashMap<String, u32>,
    pub(super) openings: Openings,
    pub(super) plays: Plays,
    /// STOP: accept nothing new.
    pub(super) stopping: bool,
    /// Those who said it and wait until the next broker can start.
    stops: Vec<(u64, u32)>,
    /// Tells [`super::daemon`] of it.
    pub(super) stopped: Rc<Notify>,
    pub(super) buffer: Vec<u8>,
    /// The state itself, for the tasks that it starts.
    pub(super) shared: std::rc::Weak<RefCell<Self>>,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) outbox: Outbox,
    pub(super) poke: Rc<Notify>,
    /// Set by its HELLO.
    pub(super) play: Option<u32>,
    pub(super) acquired: HashSet<u32>,
    /// It has come for an agent, and not only to look.
    pub(super) needs: bool,
    routes: HashMap<u32, Route>,
}

/// What a client's id stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Route {
    /// An ACQUIRE that waits.
    Waiting,
    /// An ACQUIRE that was answered by START.
    Opening,
    /// A request, by its id at the agent.
    Request { agent: u32, id: u32 },
}

impl Broker {
    pub(super) fn new(salt: String, log: Log, nofile: Rlimit, budget: usize) -> Shared {
        Rc::new_cyclic(|shared| {
            RefCell::new(Self {
                salt,
                started: Instant::now(),
                log,
                nofile,
                budget,
                clients: HashMap::new(),
                needed: Instant::now(),
                next_client: 1,
                processes: HashMap::new(),
                next_process: 1,
                agents: HashMap::new(),
                keys: HashMap::new(),
                openings: Openings::default(),
                plays: Plays::default(),
                stopping: false,
                stops: Vec::new(),
                stopped: Rc::default(),
                buffer: vec![0; BUFFER],
                shared: shared.clone(),
            })
        })
    }

    /// A new connection.
    pub(super) fn client(&mut self) -> (u64, Rc<Notify>) {
        let number = self.next_client;
        self.next_client += 1;
        let poke = Rc::<Notify>::default();
        let mut outbox = Outbox::default();
        let hello =
            message::BrokerHello { version: VERSION, pid: std::process::id(), salt: self.salt.clone() };
        outbox.push(&message::frame(Kind::Hello, 0, &hello));
        let client = Client {
            outbox,
            poke: poke.clone(),
            play: None,
            acquired: HashSet::new(),
            needs: false,
            routes: HashMap::new(),
        };
        self.clients.insert(number, client);
        (number, poke)
    }

    /// A client closed, or has to be: everything it had under way is over.
    pub(super) fn client_closed(&mut self, number: u64) {
        let Some(client) = self.clients.remove(&number) else { return };
        for (id, route) in client.routes {
            match route {
                Route::Waiting => {
                    self.openings.forget(number, id);
                }
                Route::Opening => drop(self.close_opening(number, id)),
                Route::Request { agent, id } => self.abandon(agent, id),
            }
        }
        self.dispatch();
    }

    /// Puts a frame into a client's lane.
    pub(super) fn send(&mut self, client: u64, frame: &Frame) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.outbox.push(frame);
            client.poke.notify_one();
        }
    }

    /// The same with a head.
    pub(super) fn tell(&mut self, client: u64, kind: Kind, id: u32, head: &impl Serialize) {
        self.send(client, &message::frame(kind, id, head));
    }

    pub(super) fn route(&mut self, client: u64, id: u32, route: Route) -> Result<(), String> {
        let Some(client) = self.clients.get_mut(&client) else { return Ok(()) };
        if client.routes.insert(id, route).is_some_and(|before| before != Route::Waiting) {
            return Err(format!("the id {id} twice"));
        }
        if client.routes.len() > MOST_IDS {
            return Err(format!("more than {MOST_IDS} requests at once"));
        }
        Ok(())
    }

    pub(super) fn unroute(&mut self, client: u64, id: u32) {
        if let Some(client) = self.clients.get_mut(&client) {
            client.routes.remove(&id);
        }
    }

    /// A frame of a client; a sentence for the log when the client has to be closed for it.
    pub(super) fn client_frame(&mut self, number: u64, frame: Frame) -> Result<(), String> {
        fn head<T: serde::de::DeserializeOwned>(frame: &Frame) -> Result<T, String> {
            message::head(frame).map_err(|error| format!("{:?}: {error}", frame.kind))
        }
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        let (kind, id) = (frame.kind, frame.id);
        let route = client.routes.get(&id).copied();
        if (kind == Kind::Hello) == client.play.is_some() {
            return Err(format!("{kind:?} out of turn"));
        }
        if route.is_some() && matches!(kind, Kind::Request | Kind::Acquire | Kind::Reset) {
            return Err(format!("the id {id} twice"));
        }
        match (kind, route) {
            (Kind::Hello, _) => {
                let hello: ClientHello = head(&frame)?;
                if hello.version != VERSION {
                    return Err(format!("version {}", hello.version));
                }
                client.play = Some(hello.play);
                self.plays.watch(hello.play, &self.shared);
            }
            (Kind::Ping, _) => {
                client.outbox.urgent_once(Frame::empty(Kind::Pong, 0));
                client.poke.notify_one();
            }
            (Kind::Request, _) => return self.request(number, &frame),
            (Kind::Acquire, _) => return self.acquire(number, id, head(&frame)?),
            (Kind::Spawn, Some(Route::Opening)) => self.spawn(number, id, &head(&frame)?)?,
            (Kind::Adopt, Some(Route::Opening)) => self.adopt(number, id, head(&frame)?)?,
            // The broker gave the opening up while this was under way.
            (Kind::Spawn | Kind::Adopt, None) => {
                let errno = Some(rustix::io::Errno::TIMEDOUT.raw_os_error());
                self.tell(number, Kind::Ended, id, &Ended { code: None, errno, files: Vec::new() });
            }
            (Kind::GiveUp, Some(Route::Opening)) => {
                let Unusable { reason } = head(&frame)?;
                if let Some(opening) = self.close_opening(number, id)
                    && let Some(reason) = reason
                {
                    self.openings.refuse(opening.acquire, reason, Instant::now());
                }
                self.dispatch();
            }
            (Kind::GiveUp, Some(Route::Waiting)) => {
                self.openings.forget(number, id);
                self.unroute(number, id);
            }
            (Kind::Data | Kind::End, Some(Route::Opening)) => self.input(number, id, &frame)?,
            (Kind::Data | Kind::End | Kind::Credit | Kind::Cancel, Some(Route::Request { agent, id })) => {
                self.request_frame(agent, id, frame)?;
            }
            (Kind::Data | Kind::End | Kind::Credit | Kind::Cancel | Kind::GiveUp, None) => {} // it is over
            (Kind::Reset, _) => {
                self.reset(&head::<Reset>(&frame)?.target);
                self.tell(number, Kind::Done, id, &Status::default());
            }
            (Kind::Status, _) => {
                let status = self.status();
                self.tell(number, Kind::Done, id, &status);
            }
            (Kind::Stop, _) => {
                self.stops.push((number, id));
                self.stop();
            }
            (kind, _) => return Err(format!("an unexpected {kind:?}")),
        }
        Ok(())
    }

    fn acquire(&mut self, number: u64, id: u32, mut acquire: Acquire) -> Result<(), String> {
        const MONTH: f64 = 30.0 * 86_400.0;
        acquire.persist = acquire.persist.clamp(0.0, MONTH);
        acquire.timeout = acquire.timeout.clamp(0.1, 86_400.0);
        if acquire.persist.is_nan() || acquire.timeout.is_nan() {
            return Err("a time that is none".to_owned());
        }
        let Some(client) = self.clients.get_mut(&number) else { return Ok(()) };
        client.needs = true;
        self.needed = Instant::now();
        let play = client.play.unwrap_or_default();
        let (ahead, refused) = (acquire.ahead, acquire.first && !self.is_first(&acquire.target));
        if !refused {
            self.route(number, id, Route::Waiting)?;
            self.openings.waiting.push(Waiting { client: number, id, play, acquire });
            self.dispatch();
        }
        if refused || ahead && self.openings.forget(number, id) {
            self.unroute(number, id);
            self.tell(number, Kind::Unusable, id, &Unusable { reason: None });
        }
        Ok(())
    }

    fn is_first(&self, target: &str) -> bool {
        !self.agents.values().any(|agent| agent.acquire.target == target) && self.openings.is_first(target)
    }

    /// Answers every ACQUIRE that can be answered.
    pub(super) fn dispatch(&mut self) {
        for waiting in std::mem::take(&mut self.openings.waiting) {
            let Waiting { client, id, play, acquire } = &waiting;
            let ready = self.keys.get(&acquire.key).copied();
            if let Some((number, agent)) =
                ready.and_then(|number| Some((number, self.agents.get_mut(&number)?)))
                && agent.is_ready()
            {
                agent.acquire.persist = acquire.persist;
                agent.acquire.timeout = acquire.timeout;
                let frame = agent.given(number, *id, self.plays.alive(*play), false);
                self.available(*client, number, &frame);
            } else if let Some(reason) = self.refusal(&acquire.key) {
                self.unroute(*client, *id);
                self.tell(*client, Kind::Unusable, *id, &Unusable { reason: Some(reason) });
            } else {
                self.openings.waiting.push(waiting);
            }
        }
        while let Some(Waiting { client, id, acquire, .. }) = self.openings.next() {
            if !self.make_room() {
                self.unroute(client, id);
                let reason = format!(
                    "the broker keeps {} agents, as many as its limit of open files allows, and all are at work",
                    self.agents.len()
                );
                self.tell(client, Kind::Unusable, id, &Unusable { reason: Some(reason) });
                continue;
            }
            let since = Instant::now();
            let place = self.place(&acquire.target);
            self.openings.open.push(Opening { client, id, acquire, since, process: None, stale: false });
            if let Some(client) = self.clients.get_mut(&client) {
                client.routes.insert(id, Route::Opening);
            }
            self.tell(client, Kind::Start, id, &place);
        }
    }

    /// Where a target's agents are: what one step leaves there another must find.
    fn place(&self, target: &str) -> message::Start {
        let agents = self.agents.values().filter(|agent| agent.acquire.target == target && agent.is_ready());
        let mut places = agents.map(|agent| &agent.adopt.place).filter(|place| !place.0.is_empty());
        message::Start { place: places.next().cloned().unwrap_or_default() }
    }

    fn available(&mut self, client: u64, number: u32, frame: &Frame) {
        self.unroute(client, frame.id);
        if let Some(client) = self.clients.get_mut(&client) {
            client.acquired.insert(number);
        }
        self.send(client, frame);
    }

    fn refusal(&self, key: &str) -> Option<String> {
        if self.stopping {
            return Some("the broker was told to stop".to_owned());
        }
        self.openings.refusal(key).map(str::to_owned)
    }

    /// Ends the agent that was not used for longest when there are too many; false when all are at work.
    fn make_room(&mut self) -> bool {
        if self.agents.len() + self.openings.open.len() < self.budget {
            return true;
        }
        let now = Instant::now();
        let idle = self.agents.iter().filter(|(_, agent)| agent.running(now) == 0);
        let Some(oldest) = idle.min_by_key(|(_, agent)| agent.used).map(|(number, _)| *number) else {
            return false;
        };
        self.retire(oldest, "its place was needed");
        true
    }

    fn spawn(&mut self, client: u64, id: u32, spawn: &Spawn) -> Result<(), String> {
        let number = self.next_process;
        self.next_process += 1;
        let nofile = self.nofile;
        let Some(opening) = self.openings.find(client, id) else { return Ok(()) };
        if opening.process.is_some() {
            return Err("SPAWN while a process runs".to_owned());
        }
        match process::spawn(spawn, nofile) {
            Ok((process, handles)) => {
                opening.process = Some(number);
                self.processes.insert(number, process);
                if let Some(broker) = self.shared.upgrade() {
                    tokio::task::spawn_local(process::serve(broker, number, handles));
                }
            }
            Err(errno) => {
                let ended = Ended { code: None, errno: Some(errno), files: Vec::new() };
                self.tell(client, Kind::Ended, id, &ended);
            }
        }
        Ok(())
    }

    /// DATA or END for the process of an opening.
    fn input(&mut self, client: u64, id: u32, frame: &Frame) -> Result<(), String> {
        let process = self.openings.find(client, id).and_then(|opening| opening.process);
        let Some(process) = process.and_then(|number| self.processes.get_mut(&number)) else { return Ok(()) };
        if frame.kind == Kind::End {
            process.finished = true;
        } else if !process.finished {
            process.outbox.raw(&frame.payload);
        }
        process.poke.notify_one();
        if process.outbox.queued() > MOST_INPUT {
            return Err(format!("more than {MOST_INPUT} bytes for a process that does not read them"));
        }
        Ok(())
    }

    fn adopt(&mut self, client: u64, id: u32, adopt: Adopt) -> Result<(), String> {
        let play = self.clients.get(&client).and_then(|client| client.play);
        let process = self.openings.find(client, id).and_then(|opening| opening.process);
        let Some(number) = process else { return Ok(()) }; // it ended, and ENDED is under way
        if adopt.stdout.0.len() + adopt.stderr.0.len() > LONGEST_PRELUDE {
            return Err("ADOPT with too much of what the line printed".to_owned());
        }
        let (Some(process), Some(Opening { mut acquire, stale, .. })) =
            (self.processes.get_mut(&number), self.openings.take(client, id))
        else {
            return Ok(());
        };
        if let Some(key) = &adopt.key {
            acquire.key.clone_from(key);
        }
        if process.finished {
            return Err("ADOPT after END".to_owned());
        }
        process.files.clear();
        let mut agent = Agent::new(acquire, adopt, stale.then_some(client));
        let frame = agent.given(number, id, play.and_then(|play| self.plays.alive(play)), true);
        self.log.say(&format!(
            "agent {number} of {} opened for {}, {}",
            agent.acquire.label, agent.acquire.serves, agent.adopt.hello.python
        ));
        if !stale {
            self.keys.insert(agent.acquire.key.clone(), number);
        }
        self.agents.insert(number, agent);
        self.available(client, number, &frame);
        self.dispatch();
        Ok(())
    }

    /// Ends an opening and kills its process.
    fn close_opening(&mut self, client: u64, id: u32) -> Option<Opening> {
        self.unroute(client, id);
        let opening = self.openings.take(client, id)?;
        if let Some(process) = opening.process.and_then(|number| self.processes.get_mut(&number)) {
            process.kill();
        }
        if let Some(client) = self.clients.get_mut(&client) {
            client.outbox.forget(id);
        }
        Some(opening)
    }

    /// RESET.
    fn reset(&mut self, target: &str) {
        self.openings.reset(target);
        self.retire_all(|agent| agent.acquire.target == target, "its target was reset");
        self.dispatch();
    }

    /// STOP, or SIGTERM.
    pub(super) fn stop(&mut self) {
        self.stopping = true;
        self.stopped.notify_one();
        self.openings.open.iter_mut().for_each(|opening| opening.stale = true);
        self.retire_all(|_| true, "the broker was told to stop");
        self.dispatch();
    }

    /// Nobody can connect any more.
    pub(super) fn closed(&mut self) {
        for (client, id) in std::mem::take(&mut self.stops) {
            self.tell(client, Kind::Done, id, &Status::default());
        }
    }

    fn retire_all(&mut self, which: impl Fn(&Agent) -> bool, why: &str) {
        let chosen = self.agents.iter().filter(|(_, agent)| which(agent));
        let chosen: Vec<u32> = chosen.map(|(number, _)| *number).collect();
        for number in chosen {
            self.retire(number, why);
        }
    }

    /// What a process wrote.
    pub(super) fn said(&mut self, number: u32, which: Output, bytes: &[u8]) {
        if let Some(Opening { client, id, .. }) = self.openings.of(number) {
            let (client, id) = (*client, *id);
            let kind = if which == Output::Stdout { Kind::Stdout } else { Kind::Stderr };
            self.send(client, &Frame { kind, id, payload: bytes.to_vec() });
        } else if which == Output::Stdout {
            self.agent_said(number, bytes);
        } else if let Some(process) = self.processes.get_mut(&number) {
            process.keep(bytes);
        }
    }

    /// Whether nothing may be read from a process: its opener does not take it.
    pub(super) fn is_paused(&self, number: u32) -> bool {
        let opening = self.openings.open.iter().find(|opening| opening.process == Some(number));
        let client = opening.and_then(|opening| Some((self.clients.get(&opening.client)?, opening.id)));
        client.is_some_and(|(client, id)| client.outbox.queued_in(id) > MOST_OUTPUT)
    }

    /// A client has taken bytes: what it opens may say more.
    pub(super) fn client_took(&mut self, number: u64) {
        for opening in self.openings.open.iter().filter(|opening| opening.client == number) {
            if let Some(process) = opening.process.and_then(|process| self.processes.get(&process)) {
                process.poke.notify_one();
            }
        }
    }

    /// The stdin of a process is closed at its other end.
    pub(super) fn input_closed(&mut self, number: u32) {
        if let Some(process) = self.processes.get_mut(&number) {
            process.outbox = Outbox::default();
        }
        self.silence(number);
        self.rest(number);
    }

    /// The stdout of a process has ended; true when that is the end of an agent.
    pub(super) fn stream_ended(&mut self, number: u32) -> bool {
        self.silence(number);
        let is_agent = self.agents.contains_key(&number);
        if is_agent && let Some(process) = self.processes.get_mut(&number) {
            process.end();
        }
        is_agent
    }

    /// An agent's stream has ended and its process does not say why.
    pub(super) fn stream_lost(&mut self, number: u32, why: &str) {
        self.end_agent(number, why);
    }

    /// A process has ended, and what it wrote has been read.
    pub(super) fn process_ended(&mut self, number: u32, status: Option<ExitStatus>) {
        if self.agents.contains_key(&number) {
            let tail = self.processes.get(&number).map(|process| process.tail.as_slice());
            let why = Self::why(status, tail.unwrap_or_default());
            self.end_agent(number, &why);
        }
        let Some(process) = self.processes.remove(&number) else { return };
        if let Some(opening) = self.openings.of(number) {
            opening.process = None;
            let (client, id) = (opening.client, opening.id);
            let ended = Ended {
                code: status.and_then(|status| status.code()),
                errno: None,
                files: process.contents(),
            };
            self.tell(client, Kind::Ended, id, &ended);
        }
    }

    /// What time brings.
    pub(super) fn tick(&mut self, now: Instant) {
        self.agents_tick(now);
        self.openings.expire(now);
        let late = self.openings.open.iter().filter(|opening| opening.is_late(now));
        let late: Vec<_> = late.map(|opening| (opening.client, opening.id)).collect();
        for (client, id) in late {
            self.close_opening(client, id);
            let errno = Some(rustix::io::Errno::TIMEDOUT.raw_os_error());
            self.tell(client, Kind::Ended, id, &Ended { code: None, errno, files: Vec::new() });
        }
        self.dispatch();
    }
}
