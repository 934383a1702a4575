//! A session: `exec_command`, `put_file`, `fetch_file` on one target.
//!
//! Each call goes through an agent that the broker keeps ([`agent`]), or is [`direct`], one exec of the engine: where agents are not
//! wanted, where the container has no Python for one, and for large files. The results are the same.

mod acquire;
mod agent;
mod ahead;
pub mod become_prompt;
mod boot;
mod call;
mod direct;
mod escalation;
mod fetch;
mod key;
mod line;
mod open;
mod parts;
mod put;
mod resolve;
pub mod script;
pub mod sum;

use std::path::Path;
use std::time::Duration;

pub use agent::Agents;
pub use ahead::LikelyLine;

use crate::broker::client::Client;
use crate::engine::Engine;
use crate::error::{Error, Result, one_line, shown};
use crate::sys;
use crate::transport::Interrupt;
use agent::Way;
use ahead::{Begun, Guess};
use become_prompt::BecomePlugin;
use key::Place;
use sum::SumKind;

/// What a command gave back.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandResult {
    /// Its exit status, 0 to 255; 128 + n when signal n ended it.
    pub rc: i32,
    /// Every byte it wrote to stdout.
    pub stdout: Vec<u8>,
    /// Every byte it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// One target, entered as one user, for as long as one Ansible task holds it.
#[derive(Debug)]
pub struct Session {
    /// As the task names it.
    named: Engine,
    /// The same, ready for execs once `resolved`.
    engine: Engine,
    shell: Vec<u8>,
    timeout: Duration,
    resolved: bool,
    /// The pod that a workload's name led to; empty for other names.
    led_to: Vec<u8>,
    /// It is where the target's agents are: found by another task.
    told: bool,
    /// What the target's agent said of the container's instance, if one was asked.
    instance: String,
    /// How this container sums a file, as far as is known.
    sums_by: SumKind,
    /// `None`: every call is direct.
    agents: Option<Agents>,
    client: Option<Client>,
    /// What was asked for on that connection ahead of its use.
    begun: Option<Begun>,
    guess: Option<Box<Guess>>,
    no_broker: bool,
    /// Where an engine's client would start.
    place: Place,
    /// Of the engine as it was named, and of the place.
    identity: [u8; 32],
    path: String,
    warnings: Vec<String>,
}

/// Why a large file is not transferred although nothing is wrong with it.
const REPLACED: &str = "the container was replaced meanwhile by another of the same name; run the task again";

/// How long [`Session::reset`] may take.
const RESET: Duration = Duration::from_millis(800);

impl Session {
    /// `shell` runs the command lines; `timeout` bounds the start of a command and a password prompt.
    pub fn new(engine: Engine, shell: Vec<u8>, timeout: Duration, agents: Option<Agents>) -> Self {
        let place = Place::here();
        let identity = key::identity(&engine, &place);
        Self {
            named: engine.clone(),
            engine,
            shell,
            timeout,
            resolved: false,
            led_to: Vec::new(),
            told: false,
            instance: String::new(),
            sums_by: SumKind::Cksum,
            agents: agents.filter(|agents| agents.persist > 0.0),
            client: None,
            begun: None,
            guess: None,
            no_broker: false,
            place,
            identity,
            path: String::new(),
            warnings: Vec::new(),
        }
    }

    /// Runs a shell command line. `stdin` is sent whole and then closed; `None` is an empty stdin.
    pub fn exec_command(
        &mut self,
        command: &[u8],
        stdin: Option<&[u8]>,
        mut become_plugin: Option<&mut dyn BecomePlugin>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<CommandResult> {
        if let Some(agents) = self.agents() {
            let plugin = become_plugin.as_mut().map(|plugin| &mut **plugin as &mut dyn BecomePlugin);
            let stdin = stdin.unwrap_or_default();
            match agent::exec_command(self, &agents, command, stdin, plugin, interrupt)? {
                Way::Done(result) => return Ok(result),
                Way::Direct(reason) => self.path = format!("direct: {reason}"),
            }
        }
        self.at_its_place(interrupt, |session, interrupt| {
            let plugin = become_plugin.as_mut().map(|plugin| &mut **plugin as &mut dyn BecomePlugin);
            direct::exec_command(session, command, stdin, plugin, interrupt)
        })
    }

    /// Lets agents open while the caller does something else: one for modules where the target is new, and with `commands` that for
    /// commands; [`Self::exec_command`] and transfers wait for them.
    pub fn prepare(
        &mut self,
        commands: bool,
        likely: &LikelyLine,
        interrupt: &mut dyn Interrupt,
    ) -> Result<()> {
        match self.agents() {
            Some(agents) if self.client.is_none() && (commands || !likely.pythons.is_empty()) => {
                agent::prepare(self, &agents, commands, likely, interrupt)
            }
            _ => Ok(()),
        }
    }

    /// Copies the local file to the path in the container: whole and verified, or not at all.
    ///
    /// Returns a note when that could not be done by renaming a finished file.
    pub fn put_file(
        &mut self,
        local: &Path,
        remote: &[u8],
        interrupt: &mut dyn Interrupt,
    ) -> Result<Option<String>> {
        if let Some(agents) = self.agents() {
            match agent::put_file(self, &agents, local, remote, interrupt)? {
                Way::Done(note) => return Ok(note.map(|note| one_line(&note))),
                Way::Direct(reason) => self.path = format!("direct: {reason}"),
            }
        }
        self.at_its_place(interrupt, |session, interrupt| {
            session.summing(|session| put::put_file(session, local, remote, interrupt))
        })
    }

    /// Copies the file in the container to the local path: whole and verified, or not at all.
    ///
    /// Returns a note when the container has no means to verify it.
    pub fn fetch_file(
        &mut self,
        remote: &[u8],
        local: &Path,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Option<String>> {
        if let Some(agents) = self.agents() {
            match agent::fetch_file(self, &agents, remote, local, interrupt)? {
                Way::Done(note) => return Ok(note.map(|note| one_line(&note))),
                Way::Direct(reason) => self.path = format!("direct: {reason}"),
            }
        }
        self.at_its_place(interrupt, |session, interrupt| {
            session.summing(|session| fetch::fetch_file(session, remote, local, interrupt))
        })
    }

    /// The way that the last call took, for a log: one line, empty when there is no choice.
    pub fn path(&self) -> String {
        one_line(&self.path)
    }

    /// What the user should be told once; each is returned once.
    pub fn warnings(&mut self) -> Vec<String> {
        std::mem::take(&mut self.warnings)
    }

    /// Ends the target's agents when their requests have ended. It starts nothing, and what goes wrong is nobody's concern.
    pub fn reset(&mut self, interrupt: &mut dyn Interrupt) -> Result<()> {
        self.close();
        match &self.agents {
            Some(agents) => match agent::reset(self, agents, RESET, interrupt) {
                Err(Error::Interrupted) => Err(Error::Interrupted),
                _ => Ok(()),
            },
            None => Ok(()),
        }
    }

    /// Gives the connection to the broker back.
    pub fn close(&mut self) {
        (self.client, self.begun, self.guess) = (None, None, None);
    }

    fn nonce(&self) -> Result<String> {
        sys::nonce().map_err(|source| Error::Stream { target: self.target(), source })
    }

    fn agents(&self) -> Option<Agents> {
        self.agents.clone().filter(|_| !self.no_broker)
    }

    fn warn(&mut self, sentence: String) {
        self.warnings.push(sentence);
    }

    fn resolve(&mut self, interrupt: &mut dyn Interrupt) -> Result<()> {
        if !self.resolved {
            resolve::resolve(&mut self.engine, self.timeout, interrupt)?;
            self.resolved = true;
            if let (Engine::Kubectl(named), Engine::Kubectl(found)) = (&self.named, &self.engine)
                && named.names_a_workload()
            {
                self.led_to.clone_from(&found.pod);
            }
        }
        Ok(())
    }

    /// Takes the pod in which the target's agents are for the one that the workload's name leads to.
    fn stay_at(&mut self, place: &[u8]) {
        if let (Engine::Kubectl(named), Engine::Kubectl(found)) = (&self.named, &mut self.engine)
            && named.names_a_workload()
            && !place.is_empty()
            && self.led_to != place
        {
            found.pod = place.to_vec();
            self.led_to = place.to_vec();
            (self.resolved, self.told) = (true, true);
        }
    }

    /// Forgets where the agents are, or were; false when it was not they who told.
    fn look_elsewhere(&mut self) -> bool {
        if self.told {
            self.engine = self.named.clone();
            (self.resolved, self.told) = (false, false);
            self.led_to.clear();
            self.instance.clear();
            return true;
        }
        false
    }

    /// Does what one exec does, elsewhere when the pod of the agents turns out to be gone.
    fn at_its_place<T>(
        &mut self,
        interrupt: &mut dyn Interrupt,
        mut work: impl FnMut(&mut Self, &mut dyn Interrupt) -> Result<T>,
    ) -> Result<T> {
        self.resolve(interrupt)?;
        match work(self, interrupt) {
            Err(error) if error.is_of_a_lost_place() && self.look_elsewhere() => {
                self.resolve(interrupt)?;
                work(self, interrupt)
            }
            done => done,
        }
    }

    /// Transfers with the sum that the container has; nothing is transferred in an attempt that finds it has another.
    ///
    /// An attempt that lost bytes and changed nothing is made once more: kubectl loses the end of a stream now and then.
    fn summing(&mut self, mut transfer: impl FnMut(&Self) -> Result<Transferred>) -> Result<Option<String>> {
        let mut again = true;
        loop {
            match transfer(self)? {
                Transferred::Whole(note) => return Ok(note.map(|note| one_line(&note))),
                Transferred::Lost(_) if again => again = false,
                Transferred::Lost(error) => return Err(error),
                Transferred::Unsummed => {
                    let target = self.target();
                    self.sums_by = self.sums_by.next().ok_or(Error::Unverifiable { target })?;
                }
            }
        }
    }

    fn stalled(&self, remote: &[u8], length: u64) -> Error {
        let seconds = stall_limit(length).as_secs();
        Error::Stalled { target: self.target(), path: shown(remote), seconds }
    }

    fn target(&self) -> String {
        self.engine.target()
    }
}

/// How an attempt to transfer a file ended that did not fail.
enum Transferred {
    /// The file is there and proven; with a note when something about it was not as usual.
    Whole(Option<String>),
    /// The container has no such tool to sum with; nothing was transferred.
    Unsummed,
    /// Not all of it arrived, and nothing was changed by that.
    Lost(Error),
}

impl Transferred {
    fn by_length(remote: &[u8]) -> Self {
        let note = "verified by length only, the container has neither cksum nor sha256sum";
        Self::Whole(Some(format!("{}: {note}", shown(remote))))
    }
}

/// How long a transfer may stand still: a minute, and the time a slow container needs to sum what it has.
fn stall_limit(length: u64) -> Duration {
    const SLOWEST: u64 = 5_000_000; // bytes a second
    Duration::from_secs(60 + length / SLOWEST)
}
