//! Calls through an agent that the broker keeps: no process here, and no exec of the engine once it is there.
//!
//! What an agent cannot do is left to [`super::direct`]: every function here returns [`Way::Direct`] with the reason before
//! anything was run. Once a request has been written, a lost answer is "outcome unknown" and nothing repeats it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::acquire::{self, Acquired, Purpose};
use super::ahead::{self, Begun, LikelyLine};
use super::become_prompt::BecomePlugin;
use super::call::{Call, LARGEST_FILE, Reply};
use super::key::hex;
use super::line::PythonLine;
use super::parts::Parts;
use super::put;
use super::{CommandResult, Session};
use crate::broker::client::Client;
use crate::broker::connect::{self, Start};
use crate::broker::control_path::ControlPath;
use crate::error::{Error, Result, local, shown};
use crate::transport::Interrupt;
use crate::wire::frame::Kind;
use crate::wire::message::{self, Blob, Exit, Program, Request, Reset};

/// The longest command line that is a request: one argument of a process may have 128 KiB.
const LONGEST_COMMAND: usize = (128 << 10) - 1;

/// The largest module text that is cut into parts.
const LARGEST_MODULE: usize = 16 << 20;

/// What every text has in it that Ansible wraps a module in; other programs run as they are.
const WRAPPER: &[u8] = b"_ansiballz_main";

/// How often an agent that went before it was asked anything is replaced within one call.
const ATTEMPTS: u32 = 3;

const NO_BROKER: &str = "there is no broker";

/// How a session gets agents.
#[derive(Clone, Debug)]
pub struct Agents {
    /// `sys.executable`.
    pub python: PathBuf,
    /// The directory in which Python finds the package.
    pub package: PathBuf,
    /// The file of the native module: another build has another broker.
    pub build: PathBuf,
    /// Seconds that an agent stays after the last play that used it.
    pub persist: f64,
    /// Agents do not look at how much memory their container has to spare.
    pub always: bool,
    /// Agents that lose their stream end what they run.
    pub kill_on_disconnect: bool,
    /// The interpreter to try first.
    pub interpreter: Option<Vec<u8>>,
    /// What sends modules, and in which version: their code differs, and a warm interpreter holds some of it.
    pub controller: Vec<u8>,
    /// The process that keeps agents in use.
    pub play: u32,
}

impl Agents {
    fn start(&self) -> Start {
        Start { python: self.python.clone(), package: self.package.clone(), play: self.play }
    }
}

/// How a call through an agent ended.
pub(super) enum Way<T> {
    Done(T),
    /// Nothing was run: take the direct path, because of this.
    Direct(String),
}

/// [`Session::exec_command`] through an agent.
pub(super) fn exec_command(
    session: &mut Session,
    agents: &Agents,
    command: &[u8],
    stdin: &[u8],
    mut become_plugin: Option<&mut dyn BecomePlugin>,
    interrupt: &mut dyn Interrupt,
) -> Result<Way<CommandResult>> {
    let mut plain = None;
    let is_module = stdin.len() <= LARGEST_MODULE && memchr::memmem::find(stdin, WRAPPER).is_some();
    if (is_module || stdin.is_empty())
        && let Some(line) = PythonLine::parse(command)
        && line.file.is_some() == stdin.is_empty()
    {
        let plugin = become_plugin.as_mut().map(|plugin| &mut **plugin as &mut dyn BecomePlugin);
        match module(session, agents, &line, stdin, plugin, interrupt)? {
            Way::Done(result) => return Ok(Way::Done(result)),
            Way::Direct(reason) => plain = Some(reason),
        }
        if session.client.is_none() && session.no_broker {
            return Ok(Way::Direct(plain.unwrap_or_default()));
        }
    }
    if command.len() > LONGEST_COMMAND {
        return Ok(Way::Direct("the command is too long for a request".to_owned()));
    }
    let request = Request::Exec { shell: Blob(session.shell.clone()), command: Blob(command.to_vec()) };
    let mut become_plugin = become_plugin;
    let way = on_agent(session, agents, Purpose::Commands, None, interrupt, |call, interrupt| {
        let plugin = become_plugin.as_mut().map(|plugin| &mut **plugin as &mut dyn BecomePlugin);
        call.run(&request, stdin, plugin, interrupt)
    })?;
    if let (Way::Done(_), Some(reason)) = (&way, plain) {
        session.path = format!("{}; no warm interpreter: {reason}", session.path);
    }
    Ok(way)
}

/// Runs a Python program in a child of the warm interpreter that `line` opens: `text`, or the line's file.
fn module(
    session: &mut Session,
    agents: &Agents,
    line: &PythonLine,
    text: &[u8],
    become_plugin: Option<&mut dyn BecomePlugin>,
    interrupt: &mut dyn Interrupt,
) -> Result<Way<CommandResult>> {
    let cut = Parts::of(text);
    let env = line.env.iter().map(|(name, value)| (Blob(name.clone()), Blob(value.clone()))).collect();
    let program = match &line.file {
        Some(path) => Program::File(Blob(path.clone())),
        None => Program::Parts(cut.parts.clone()),
    };
    let request = Request::Module { env, program };
    let purpose = Purpose::Modules(line);
    on_agent(session, agents, purpose, become_plugin, interrupt, |call, interrupt| {
        let (stdout, stderr) = (line.with_id(&call.agent.stdout), line.with_id(&call.agent.stderr));
        let reply = call.run_module(&request, &cut, text, interrupt)?;
        Ok(match reply {
            Reply::Done(CommandResult { rc, stdout: out, stderr: err }) => Reply::Done(CommandResult {
                rc,
                stdout: [stdout, out].concat(),
                stderr: [stderr, err].concat(),
            }),
            other => other,
        })
    })
}

/// [`Session::put_file`] through an agent; `None` when the file is too large for that.
pub(super) fn put_file(
    session: &mut Session,
    agents: &Agents,
    path: &Path,
    remote: &[u8],
    interrupt: &mut dyn Interrupt,
) -> Result<Way<Option<String>>> {
    let mut bytes = Vec::new();
    let file = put::open(path)?;
    if local(path, file.metadata())?.len() > LARGEST_FILE {
        // It must come to the instance in which the agent is, and the agent must be there now.
        let nothing = Request::Exec { shell: Blob(b"/bin/sh".to_vec()), command: Blob(b":".to_vec()) };
        let asked = on_agent(session, agents, Purpose::Commands, None, interrupt, |call, interrupt| {
            call.run(&nothing, b"", None, interrupt)
        });
        match asked {
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(_) => session.instance.clear(), // whatever it is, the direct path says it better
            Ok(_) => {}
        }
        return Ok(Way::Direct("a file of more than 1 MiB has a stream of its own".to_owned()));
    }
    local(path, file.take(LARGEST_FILE + 1).read_to_end(&mut bytes))?;
    if bytes.len() as u64 > LARGEST_FILE {
        return Ok(Way::Direct("the file is growing".to_owned()));
    }
    let request = Request::Put {
        path: Blob(remote.to_vec()),
        length: bytes.len() as u64,
        sha256: hex(&Sha256::digest(&bytes)),
    };
    on_agent(session, agents, Purpose::Commands, None, interrupt, |call, interrupt| {
        let mut upload = call.request(&request);
        upload.send(bytes.as_slice());
        upload.finish();
        let target = call.session.target();
        let stall = call.session.stalled(remote, bytes.len() as u64);
        call.transfer(&mut upload, stall, interrupt, |exit| {
            let text = match exit {
                Exit { done: Some(text), .. } => {
                    let note = (text != "ok").then(|| format!("{}: written {text}", shown(remote)));
                    return Some(Ok(note));
                }
                Exit { failed: Some(text), .. } => format!("failed: {text}"),
                Exit { broken: Some(text), .. } => format!("broken: {text}"),
                _ => return None,
            };
            Some(Err(put::failed(target.clone(), remote, &text)))
        })
    })
}

/// [`Session::fetch_file`] through an agent; the direct path when the file is too large for that.
pub(super) fn fetch_file(
    session: &mut Session,
    agents: &Agents,
    remote: &[u8],
    path: &Path,
    interrupt: &mut dyn Interrupt,
) -> Result<Way<Option<String>>> {
    let request = Request::Fetch { path: Blob(remote.to_vec()) };
    on_agent(session, agents, Purpose::Commands, None, interrupt, |call, interrupt| {
        call.fetch(&request, remote, path, interrupt)
    })
}

/// Ends the agents of the target; never starts a broker.
pub(super) fn reset(
    session: &Session,
    agents: &Agents,
    bound: Duration,
    interrupt: &mut dyn Interrupt,
) -> Result<()> {
    let until = Instant::now() + bound;
    let path = ControlPath::new(&agents.build)?;
    let Some(connected) = connect::connect_existing(&path, agents.play, interrupt)? else { return Ok(()) };
    let mut client = Client::new(connected);
    let id = client.new_id();
    let target = acquire::target_key(session, client.salt());
    client.send(&message::frame(Kind::Reset, id, &Reset { target }));
    client.next(id, None, Some(until), interrupt)?;
    Ok(())
}

/// Asks for agents ahead of their use; what goes wrong is found again, and said, when they are used.
pub(super) fn prepare(
    session: &mut Session,
    agents: &Agents,
    commands: bool,
    likely: &LikelyLine,
    interrupt: &mut dyn Interrupt,
) -> Result<()> {
    let Some(mut client) = connected(session, agents, interrupt)? else { return Ok(()) };
    match ahead::begin(session, agents, &mut client, commands, likely, interrupt) {
        Err(Error::Interrupted) => return Err(Error::Interrupted),
        Ok(true) => session.client = Some(client),
        // With the connection all questions are taken back.
        Ok(false) | Err(_) => session.close(),
    }
    Ok(())
}

/// Ends an opening that was begun ahead, before the connection is used for something else: what comes of it would be lost.
fn settle(
    session: &mut Session,
    agents: &Agents,
    client: &mut Client,
    interrupt: &mut dyn Interrupt,
) -> Result<()> {
    if matches!(session.begun, Some(Begun::Spawned(_))) {
        match acquire::acquire(session, agents, client, Purpose::Commands, None, interrupt) {
            Ok(acquired) => session.begun = Some(Begun::Answered(acquired)),
            Err(Error::Interrupted) => return Err(Error::Interrupted),
            Err(_) => {}
        }
    }
    Ok(())
}

/// Does `work` on an agent, another one when the first was gone before it was asked.
fn on_agent<T>(
    session: &mut Session,
    agents: &Agents,
    purpose: Purpose<'_>,
    mut become_plugin: Option<&mut dyn BecomePlugin>,
    interrupt: &mut dyn Interrupt,
    mut work: impl FnMut(&mut Call<'_>, &mut dyn Interrupt) -> Result<Reply<T>>,
) -> Result<Way<T>>
where
    T: FromLine,
{
    let mut reason = String::new();
    for _ in 0..ATTEMPTS {
        let mut client = match session.client.take() {
            Some(client) => client,
            None => match connected(session, agents, interrupt)? {
                Some(client) => client,
                None => return Ok(Way::Direct(NO_BROKER.to_owned())),
            },
        };
        if matches!(purpose, Purpose::Modules(_)) {
            settle(session, agents, &mut client, interrupt)?;
        }
        let plugin = become_plugin.as_mut().map(|plugin| &mut **plugin as &mut dyn BecomePlugin);
        let agent = match acquire::acquire(session, agents, &mut client, purpose, plugin, interrupt)? {
            Acquired::Agent(agent) => agent,
            Acquired::Unusable(reason) => {
                session.client = Some(client);
                return Ok(Way::Direct(reason));
            }
            Acquired::Result(result) => {
                session.client = Some(client);
                session.path = String::from("its line ended before the interpreter");
                return Ok(T::from_line(result).map_or_else(|| Way::Direct(String::new()), Way::Done));
            }
            Acquired::Closed(said) => {
                reason = said;
                continue;
            }
        };
        let what = if matches!(purpose, Purpose::Commands) { "agent" } else { "interpreter" };
        let how = if agent.fresh { "opened" } else { "kept" };
        let path = format!("{what} {} (Python {}, {how})", agent.hello.pid, agent.hello.python);
        let id = client.new_id();
        let before = client.queued();
        let mut call = Call { session, client, agent, id, before, broken: false };
        let reply = work(&mut call, interrupt);
        let Call { client, broken, .. } = call;
        if !broken && reply.is_ok() {
            session.client = Some(client);
        }
        match reply? {
            Reply::Done(done) => {
                session.path = path;
                return Ok(Way::Done(done));
            }
            Reply::Gone => reason = String::from("the agent ended"),
            Reply::Plain(reason) => return Ok(Way::Direct(reason)),
        }
    }
    Ok(Way::Direct(format!("no agent stayed ({reason})")))
}

/// The broker's connection, the broker being started if need be; `None` when there can be none, which the user is told.
fn connected(
    session: &mut Session,
    agents: &Agents,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Client>> {
    (session.begun, session.guess) = (None, None); // on another connection
    let connected =
        ControlPath::new(&agents.build).and_then(|path| connect::connect(&path, &agents.start(), interrupt));
    match connected {
        Ok(connected) => Ok(Some(Client::new(connected))),
        Err(Error::Interrupted) => Err(Error::Interrupted),
        Err(error) => {
            session.no_broker = true;
            session.path = format!("direct: {NO_BROKER}"); // of all calls to come
            session.warn(error.sentence());
            Ok(None)
        }
    }
}

/// What a line that ended by itself means to a call.
trait FromLine: Sized {
    fn from_line(result: CommandResult) -> Option<Self>;
}

impl FromLine for CommandResult {
    fn from_line(result: CommandResult) -> Option<Self> {
        Some(result)
    }
}

impl FromLine for Option<String> {
    fn from_line(_: CommandResult) -> Option<Self> {
        None // files are never a line's
    }
}
