//! One request to an agent, from REQUEST to EXIT.

use std::path::Path;
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::acquire::Agent;
use super::become_prompt::BecomePlugin;
use super::direct::{KILL_TIME, MOST_OUTPUT, kill};
use super::escalation::{Answer, Escalation};
use super::fetch::Destination;
use super::key::hex;
use super::parts::Parts;
use super::{CommandResult, Session, resolve};
use crate::broker::client::{Client, Event, Upload};
use crate::engine::Engine;
use crate::error::{Error, Result, shown};
use crate::sys;
use crate::transport::{Interrupt, Uninterrupted};
use crate::wire::frame::{Frame, Kind};
use crate::wire::message::{self, Exit, Lost, Request, Started, Want};

/// Files up to this size go through the agent; larger ones have a stream of their own.
pub(super) const LARGEST_FILE: u64 = 1 << 20;

/// What an agent may take to begin a request, beyond the time that the engine has.
const START: Duration = Duration::from_secs(60);

/// How a request ended.
pub(super) enum Reply<T> {
    Done(T),
    /// Nothing of it was run: the agent was gone before.
    Gone,
    /// Nothing of it was run: it must take the plain way, because of this.
    Plain(String),
}

/// One request under way.
pub(super) struct Call<'s> {
    pub(super) session: &'s mut Session,
    pub(super) client: Client,
    pub(super) agent: Agent,
    pub(super) id: u32,
    /// Bytes on the connection before the request.
    pub(super) before: u64,
    /// True when the connection cannot be used for another request.
    pub(super) broken: bool,
}

/// A frame of the request, judged.
enum Got {
    Frame(Frame),
    Exit(Exit),
    Gone,
    Late,
}

impl Call<'_> {
    /// Queues the request.
    pub(super) fn request<'a>(&mut self, request: &Request) -> Upload<'a> {
        let mut frame = message::frame(Kind::Request, self.id, request);
        frame.payload.splice(..0, self.agent.number.to_be_bytes());
        self.client.send(&frame);
        Upload::for_request(self.id)
    }

    fn next(
        &mut self,
        upload: &mut Upload<'_>,
        deadline: Option<Instant>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Got> {
        let lost = |said: String| Error::OutcomeUnknown { target: self.session.target(), said };
        let frame = match self.client.next(self.id, Some(upload), deadline, interrupt)? {
            Event::Frame(frame) => frame,
            Event::Deadline => return Ok(Got::Late),
            Event::Closed(_) if self.client.sent() <= self.before => {
                self.broken = true;
                return Ok(Got::Gone);
            }
            Event::Closed(said) => return Err(lost(said)),
        };
        Ok(match frame.kind {
            Kind::Exit => match message::head(&frame) {
                Ok(exit) => Got::Exit(exit),
                Err(error) => return Err(lost(format!("the agent's answer has no sense: {error}"))),
            },
            Kind::Gone => Got::Gone,
            Kind::Lost => {
                let said = message::head(&frame).map_or_else(|_| String::new(), |head: Lost| head.said);
                return Err(lost(said));
            }
            _ => Got::Frame(frame),
        })
    }

    /// Runs a command.
    pub(super) fn run(
        &mut self,
        request: &Request,
        stdin: &[u8],
        become_plugin: Option<&mut dyn BecomePlugin>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Reply<CommandResult>> {
        let becomes = become_plugin.is_some();
        let mut escalation = Escalation::new(become_plugin, self.session.timeout);
        let mut upload = self.request(request);
        if escalation.done() {
            upload.send(stdin);
            upload.finish();
        }
        let mut running = Running::new(becomes, self.start_by());
        loop {
            let deadline = running.deadline(escalation.deadline());
            match self.step(&mut running, &mut upload, deadline, interrupt)? {
                Step::Started => escalation.started(),
                Step::Output => {}
                Step::Late => {
                    self.cancel(&running);
                    return Err(
                        escalation.timed_out(self.session.target(), [&running.stdout, &running.stderr])
                    );
                }
                Step::Want(_) => return Err(self.confused("it wants parts of a command")),
                Step::Ended(reply) => {
                    if let Some(refused) = escalation.refused() {
                        return Err(refused);
                    }
                    return Ok(reply);
                }
            }
            let answer = escalation.advance([&mut running.stdout, &mut running.stderr]);
            match answer.inspect_err(|_| self.cancel(&running))? {
                Answer::Nothing => {}
                Answer::Password(password) => upload.send(password),
                Answer::Stdin => {
                    upload.send(stdin);
                    upload.finish();
                }
            }
        }
    }

    /// Runs a module; the agent has been entered as the line says, so nobody asks for a password.
    pub(super) fn run_module(
        &mut self,
        request: &Request,
        cut: &Parts,
        text: &[u8],
        interrupt: &mut dyn Interrupt,
    ) -> Result<Reply<CommandResult>> {
        let mut upload = self.request(request);
        let mut running = Running::new(true, self.start_by());
        loop {
            let deadline = running.deadline(None);
            match self.step(&mut running, &mut upload, deadline, interrupt)? {
                Step::Started | Step::Output => {}
                Step::Late => unreachable!("a module has no deadline of its own"),
                Step::Want(wanted) => {
                    for index in wanted.parts {
                        let Some(part) = cut.kept(text, index) else {
                            return Err(self.confused("it wants a part that there is not"));
                        };
                        upload.send(part);
                    }
                    upload.finish();
                }
                Step::Ended(reply) => return Ok(reply),
            }
        }
    }

    /// The next thing to happen to a command or module.
    fn step(
        &mut self,
        running: &mut Running,
        upload: &mut Upload<'_>,
        deadline: Option<Instant>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Step> {
        let got = self.next(upload, deadline, interrupt).inspect_err(|error| {
            if matches!(error, Error::Interrupted) {
                self.cancel(running);
            }
        });
        let frame = match got? {
            Got::Frame(frame) => frame,
            Got::Gone => return Ok(Step::Ended(Reply::Gone)),
            Got::Late if !running.started => {
                self.cancel(running);
                let said = "the agent did not begin it".to_owned();
                return Err(Error::OutcomeUnknown { target: self.session.target(), said });
            }
            Got::Late => return Ok(Step::Late),
            Got::Exit(Exit { plain: Some(reason), .. }) => return Ok(Step::Ended(Reply::Plain(reason))),
            Got::Exit(Exit { rc: Some(rc), .. }) => {
                let (stdout, stderr) =
                    (std::mem::take(&mut running.stdout), std::mem::take(&mut running.stderr));
                return Ok(Step::Ended(Reply::Done(CommandResult { rc, stdout, stderr })));
            }
            Got::Exit(Exit { failed: Some(said), .. }) => {
                return Err(Error::OutcomeUnknown { target: self.session.target(), said });
            }
            Got::Exit(_) => return Err(self.confused("it ended without a status")),
        };
        let output = match frame.kind {
            Kind::Started => {
                running.started = true;
                running.pid = message::head::<Started>(&frame).ok().and_then(|started| started.pid);
                return Ok(Step::Started);
            }
            Kind::Want => {
                return match message::head(&frame) {
                    Ok(wanted) => Ok(Step::Want(wanted)),
                    Err(_) => Err(self.confused("what it wants has no sense")),
                };
            }
            Kind::Stdout => &mut running.stdout,
            Kind::Stderr => &mut running.stderr,
            kind => return Err(self.confused(&format!("it sent {kind:?}"))),
        };
        output.extend_from_slice(&frame.payload);
        self.client.used(self.id, frame.payload.len());
        if running.stdout.len() + running.stderr.len() > MOST_OUTPUT {
            self.cancel(running);
            return Err(Error::TooMuchOutput { target: self.session.target(), limit: MOST_OUTPUT });
        }
        Ok(Step::Output)
    }

    fn start_by(&self) -> Instant {
        Instant::now() + self.session.timeout + START
    }

    fn confused(&self, said: &str) -> Error {
        Error::OutcomeUnknown {
            target: self.session.target(),
            said: format!("the agent does not keep to the protocol: {said}"),
        }
    }

    /// Ends the request in the container, as far as that can be done in a moment.
    fn cancel(&mut self, running: &Running) {
        // Whoever interrupts waits for us: no second interruption is looked at within this bound.
        let until = Instant::now() + KILL_TIME;
        self.client.send(&Frame::empty(Kind::Cancel, self.id));
        self.client.flush();
        // What sudo started for another user is root's to end.
        if let Some(pid) = running.pid.filter(|_| running.becomes && self.agent.hello.uid != 0)
            && (self.session.resolved
                || resolve::resolve(&mut self.session.engine, KILL_TIME / 3, &mut Uninterrupted).is_ok())
        {
            let root: Vec<Engine> = self.session.engine.as_root().into_iter().collect();
            kill(&root, pid, until);
        }
        let mut ends = Upload::for_request(self.id);
        while let Ok(Event::Frame(frame)) =
            self.client.next(self.id, Some(&mut ends), Some(until), &mut Uninterrupted)
        {
            match frame.kind {
                Kind::Exit | Kind::Gone | Kind::Lost => return,
                Kind::Stdout | Kind::Stderr => self.client.used(self.id, frame.payload.len()),
                _ => {}
            }
        }
        self.broken = true;
    }

    /// Waits for the end of a transfer; `judge` makes an EXIT the result.
    pub(super) fn transfer<T>(
        &mut self,
        upload: &mut Upload<'_>,
        stalled: Error,
        interrupt: &mut dyn Interrupt,
        judge: impl Fn(&Exit) -> Option<Result<T>>,
    ) -> Result<Reply<T>> {
        let until = Some(Instant::now() + super::stall_limit(LARGEST_FILE));
        loop {
            match self.next(upload, until, interrupt)? {
                Got::Exit(Exit { plain: Some(reason), .. }) => return Ok(Reply::Plain(reason)),
                Got::Exit(exit) => {
                    let judged =
                        judge(&exit).unwrap_or_else(|| Err(self.confused("it ended without a result")));
                    return judged.map(Reply::Done);
                }
                Got::Gone => return Ok(Reply::Gone),
                Got::Late => return Err(stalled),
                Got::Frame(_) => {} // STARTED
            }
        }
    }

    pub(super) fn fetch(
        &mut self,
        request: &Request,
        remote: &[u8],
        path: &Path,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Reply<Option<String>>> {
        let target = self.session.target();
        let nonce = sys::nonce().map_err(|source| Error::Stream { target: target.clone(), source })?;
        let mut destination = Destination::create(path, &nonce)?;
        let mut upload = self.request(request);
        upload.finish();
        let failed = |said: String| Error::Fetch { target: target.clone(), path: shown(remote), said };
        let (mut length, mut sum, mut received) = (None, Sha256::new(), 0_u64);
        loop {
            let until = Some(Instant::now() + super::stall_limit(LARGEST_FILE));
            let frame = match self.next(&mut upload, until, interrupt)? {
                Got::Frame(frame) => frame,
                Got::Gone => return Ok(Reply::Gone),
                Got::Late => return Err(self.session.stalled(remote, length.unwrap_or_default())),
                Got::Exit(Exit { plain: Some(reason), .. }) => return Ok(Reply::Plain(reason)),
                Got::Exit(Exit { missing: true, .. }) => {
                    return Err(Error::RemoteMissing { target: target.clone(), path: shown(remote) });
                }
                Got::Exit(Exit { failed: Some(said), .. }) => return Err(failed(said)),
                Got::Exit(Exit { sha256: Some(sha256), .. }) => {
                    if length != Some(received) {
                        return Err(failed("it became shorter while it was read; try again".to_owned()));
                    }
                    if sha256 != hex(&sum.finalize()) {
                        return Err(failed("it arrived changed; try again".to_owned()));
                    }
                    destination.keep()?;
                    return Ok(Reply::Done(None));
                }
                Got::Exit(_) => return Err(self.confused("it ended without a result")),
            };
            match frame.kind {
                Kind::Started => {
                    length = message::head::<Started>(&frame).ok().and_then(|started| started.length);
                    let Some(announced) = length else {
                        return Err(self.confused("it announced no length"));
                    };
                    if announced > LARGEST_FILE {
                        self.cancel(&Running::new(false, Instant::now()));
                        return Ok(Reply::Plain(
                            "a file of more than 1 MiB has a stream of its own".to_owned(),
                        ));
                    }
                    destination.check_room(announced)?;
                }
                Kind::Stdout => {
                    received += frame.payload.len() as u64;
                    if length.is_none_or(|length| received > length) {
                        return Err(self.confused("it sent more than it announced"));
                    }
                    sum.update(&frame.payload);
                    destination.write(&frame.payload)?;
                    self.client.used(self.id, frame.payload.len());
                }
                kind => return Err(self.confused(&format!("it sent {kind:?}"))),
            }
        }
    }
}

/// What happened to a command or module.
enum Step {
    Started,
    Output,
    Late,
    Want(Want),
    Ended(Reply<CommandResult>),
}

/// A command or module so far.
struct Running {
    becomes: bool,
    started: bool,
    pid: Option<u32>,
    start_by: Instant,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

impl Running {
    fn new(becomes: bool, start_by: Instant) -> Self {
        Self { becomes, started: false, pid: None, start_by, stdout: Vec::new(), stderr: Vec::new() }
    }

    fn deadline(&self, after_start: Option<Instant>) -> Option<Instant> {
        if self.started { after_start } else { Some(self.start_by) }
    }
}
