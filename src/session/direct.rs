//! One exec of the engine per call.

use std::time::{Duration, Instant};

use super::become_prompt::BecomePlugin;
use super::escalation::{Answer, Escalation};
use super::script::Script;
use super::{CommandResult, Session, resolve};
use crate::engine::{Engine, Kubectl, Refusal, Runc};
use crate::error::{Error, Result, said, shown};
use crate::sys;
use crate::transport::cli::{CommandLine, Event, ExecStream, Input, set_off};
use crate::transport::{Interrupt, Uninterrupted};

/// How long the engine's client may take to end by itself after the container's shell reported the end. A background child that
/// holds stdout would keep it for ever; nothing it could still say matters.
const GRACE: Duration = Duration::from_millis(500);

/// More output than any task can use. It has to be held in memory, and a container may write for ever.
pub(super) const MOST_OUTPUT: usize = 4 << 30;

/// What a container, or the engine's client, may write where only marks and parts of a file are expected.
pub(super) const MOST_WORDS: usize = 1 << 20;

/// The longest an interrupted call spends on ending the command in the container.
pub(super) const KILL_TIME: Duration = Duration::from_millis(900);

/// An exec whose script runs in the container, with what it has written so far.
#[derive(Debug)]
pub(super) struct Running<'a> {
    pub(super) stream: ExecStream<'a>,
    pub(super) script: Script,
    pub(super) stdout: Vec<u8>,
    /// Without what the engine's client wrote before the start.
    pub(super) stderr: Vec<u8>,
    line: CommandLine,
    started: Option<u32>,
    start_by: Instant,
    /// Bytes that may be held at once after the start.
    pub(super) most_output: usize,
}

impl Running<'_> {
    /// Runs `script` through the engine; `input` is what it reads after its own stdin.
    pub(super) fn spawn(session: &Session, script: Script, input: Input) -> Result<Self> {
        let has_stdin = !matches!(input, Input::Nothing);
        let drains = has_stdin && session.engine.loses_output_with_unread_stdin();
        let script = if drains { script.that_reads_to_the_end() } else { script };
        let line = session.engine.exec(&script.command, has_stdin)?;
        let stream = ExecStream::spawn(&session.target(), session.engine.name(), &line, input)?;
        let start_by = Instant::now() + session.timeout;
        Ok(Self {
            stream,
            script,
            stdout: Vec::new(),
            stderr: Vec::new(),
            line,
            started: None,
            start_by,
            most_output: MOST_WORDS,
        })
    }

    /// The next event, with the start mark already taken out of stderr; the output is in `stdout` and `stderr`.
    pub(super) fn next(
        &mut self,
        session: &Session,
        deadline: Option<Instant>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Happened> {
        let until = match self.started {
            Some(_) => deadline,
            None => Some(self.start_by),
        };
        let event = match self.stream.next(until, interrupt) {
            Err(Error::Interrupted) => {
                self.kill(session);
                return Err(Error::Interrupted);
            }
            event => event?,
        };
        let limit = if self.started.is_some() { self.most_output } else { MOST_WORDS };
        match event {
            Event::Stdout(_) | Event::Stderr(_) if self.stdout.len() + self.stderr.len() > limit => {
                self.kill(session);
                Err(Error::TooMuchOutput { target: session.target(), limit })
            }
            Event::Stdout(bytes) => {
                self.stdout.extend_from_slice(bytes);
                Ok(Happened::Output)
            }
            Event::Stderr(bytes) => {
                self.stderr.extend_from_slice(bytes);
                if self.started.is_none()
                    && let Some((_, end, pid)) = self.script.find_start(&self.stderr)
                {
                    self.stderr.drain(..end);
                    self.started = Some(pid);
                    return Ok(Happened::Started);
                }
                Ok(Happened::Output)
            }
            Event::Deadline if self.started.is_none() => {
                Err(Error::StartTimeout { target: session.target(), seconds: session.timeout.as_secs_f64() })
            }
            Event::Deadline => Ok(Happened::Deadline),
            Event::Drained => Ok(Happened::Drained),
            Event::Ended(status) => Ok(Happened::Ended(status.code())),
        }
    }

    /// Why the engine's client ended without the end mark: it never started the script, or the stream broke.
    ///
    /// `Ok(rc)` when the container still runs and the engine itself reports a failed command: its shell was killed.
    pub(super) fn without_mark(
        &mut self,
        session: &Session,
        code: Option<i32>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<i32> {
        // A signal to the whole process group ends the client, too: then it is the signal that counts.
        interrupt.check().inspect_err(|_| self.kill(session))?;
        let log = self.line.held.first().filter(|_| matches!(session.engine, Engine::Runc(_)));
        let log = log.and_then(|log| log.contents(1 << 20).ok()).unwrap_or_default();
        if let Some(error) = marked_failure(session, &self.script, &self.stderr) {
            return Err(error);
        }
        if self.started.is_none() {
            let refusal = Refusal { code, stdout: &self.stdout, stderr: &self.stderr, log: &log };
            return Err(refused(session, &refusal, interrupt));
        }
        let lost = |said: String| Error::OutcomeUnknown { target: session.target(), said };
        match resolve::state(&session.engine, session.timeout, interrupt) {
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Ok(Some(state)) if state == "running" => match code {
                Some(rc) if rc != 0 && rc != 137 && Runc::logged_error(&log).is_none() => Ok(rc),
                _ => Err(lost(format!("the client ended with {}: {}", shown_code(code), said(&self.stderr)))),
            },
            Ok(Some(state)) => Err(lost(format!("the container is now {state}"))),
            Ok(None) | Err(_) => Err(lost("the container is gone, or the engine does not answer".to_owned())),
        }
    }

    /// Ends the command in the container, as far as that can be done in a moment.
    pub(super) fn kill(&mut self, session: &Session) {
        // Whoever interrupts waits for us: no second interruption is looked at within this bound.
        let until = Instant::now() + KILL_TIME;
        while self.started.is_none() && self.stderr.len() <= MOST_WORDS {
            match self.stream.next(Some(until), &mut Uninterrupted) {
                Ok(Event::Stderr(bytes)) => {
                    self.stderr.extend_from_slice(bytes);
                    self.started = self.script.find_start(&self.stderr).map(|(_, _, pid)| pid);
                }
                Ok(Event::Stdout(_) | Event::Drained) => {}
                Ok(Event::Ended(_) | Event::Deadline) | Err(_) => return,
            }
        }
        if let Some(pid) = self.started {
            kill_as_any(session, pid, until);
        }
    }

    /// Lets the engine's client end by itself for a moment, so that it reaps what it started, and gives back the two outputs.
    pub(super) fn finish(mut self, interrupt: &mut dyn Interrupt) -> Result<(Vec<u8>, Vec<u8>)> {
        let until = Instant::now() + GRACE;
        self.stream.drop_input();
        while !matches!(self.stream.next(Some(until), interrupt)?, Event::Ended(_) | Event::Deadline) {}
        Ok((self.stdout, self.stderr))
    }

    pub(super) fn has_started(&self) -> bool {
        self.started.is_some()
    }
}

/// The script could not run the command at all, and said so.
pub(super) fn marked_failure(session: &Session, script: &Script, stderr: &[u8]) -> Option<Error> {
    let target = session.target();
    if let Some((_, _, text)) = script.find(stderr, b"d", 0) {
        let dir = session.engine.prelude().working_dir.map(shown).unwrap_or_default();
        return Some(Error::WorkingDir { target, dir, said: said(text.as_bytes()) });
    }
    if script.find(stderr, b"v", 0).is_some() {
        let reason = "the container's shell cannot set one of the variables, which it uses itself".to_owned();
        return Some(Error::Option { target, option: "extra_env", reason });
    }
    script.find(stderr, b"n", 0)?;
    Some(Error::NoShell {
        target,
        shell: shown(&session.shell),
        said: "it is not in the container".to_owned(),
    })
}

/// Why the engine did not start the script.
pub(super) fn refused(session: &Session, refusal: &Refusal<'_>, interrupt: &mut dyn Interrupt) -> Error {
    let error = session.engine.refusal(refusal);
    // The engine's text knows only "not running"; created, exited and dead want different remedies.
    if matches!(error, Error::NotRunning { .. })
        && let Ok(Some(state)) = resolve::state(&session.engine, session.timeout, interrupt)
        && state != "running"
    {
        return session.engine.not_running(&state);
    }
    error
}

/// [`kill`] with whatever rights the session has.
pub(super) fn kill_as_any(session: &Session, pid: u32, until: Instant) {
    // What sudo started for another user is root's to end. A root without CAP_KILL fails at once, then the user ends what is its
    // own. Not the other way round: docker lets a second exec wait for seconds when the command's shell has ended and others
    // of its processes have not.
    let engines: Vec<Engine> =
        [session.engine.as_root(), Some(session.engine.clone())].into_iter().flatten().collect();
    kill(&engines, pid, until);
}

/// Ends the command whose shell has the process id `pid` in the container, at most until `until`. The engines' clients do not: the
/// command of a killed `docker exec` goes on.
///
/// The number is the container's word: to `kill`, 1 would mean every process that there is.
pub(super) fn kill(engines: &[Engine], pid: u32, until: Instant) {
    if pid <= 1 {
        return;
    }
    let Ok(nonce) = sys::nonce() else { return };
    for engine in engines {
        let Ok(line) = engine.exec(&Script::kill(&nonce, pid).command, false) else { continue };
        let left = until.saturating_duration_since(Instant::now());
        set_off(&line, left);
    }
}

/// What [`Running::next`] saw.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Happened {
    Started,
    Output,
    Drained,
    Deadline,
    Ended(Option<i32>),
}

fn shown_code(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".to_owned(), |code| format!("status {code}"))
}

/// [`Session::exec_command`] by one exec.
pub(super) fn exec_command(
    session: &Session,
    command: &[u8],
    stdin: Option<&[u8]>,
    become_plugin: Option<&mut dyn BecomePlugin>,
    interrupt: &mut dyn Interrupt,
) -> Result<CommandResult> {
    let nonce = sys::nonce().map_err(|source| Error::Stream { target: session.target(), source })?;
    let script = Script::exec(&nonce, &session.shell, command, session.engine.prelude());
    let stdin = stdin.unwrap_or_default();
    let needs_input = !stdin.is_empty() || !script.stdin.is_empty() || become_plugin.is_some();
    let first = script.stdin.clone();
    let mut running =
        Running::spawn(session, script, if needs_input { Input::Stream } else { Input::Nothing })?;
    running.most_output = MOST_OUTPUT;
    running.stream.send(first);
    let mut escalation = Escalation::new(become_plugin, session.timeout);
    if escalation.done() {
        running.stream.send(stdin);
        running.stream.finish_input();
    }
    let mut ends = Ends::default();
    while !ends.both() {
        match running.next(session, escalation.deadline(), interrupt)? {
            Happened::Started => escalation.started(),
            Happened::Output | Happened::Drained => {}
            Happened::Deadline => {
                running.kill(session);
                return Err(escalation.timed_out(session.target(), [&running.stdout, &running.stderr]));
            }
            Happened::Ended(code) => {
                let rc = running.without_mark(session, code, interrupt)?;
                if let Some(refused) = escalation.refused() {
                    return Err(refused);
                }
                if matches!(session.engine, Engine::Kubectl(_)) {
                    Kubectl::without_own_words(&mut running.stderr, rc);
                }
                return Ok(CommandResult { rc, stdout: running.stdout, stderr: running.stderr });
            }
        }
        if !running.has_started() {
            continue;
        }
        let answer = escalation.advance([&mut running.stdout, &mut running.stderr]);
        match answer.inspect_err(|_| running.kill(session))? {
            Answer::Nothing => {}
            Answer::Password(password) => running.stream.send(password),
            Answer::Stdin => {
                running.stream.send(stdin);
                running.stream.finish_input();
            }
        }
        ends.look(&running);
    }
    if let Some(refused) = escalation.refused() {
        return Err(refused);
    }
    let (Some((out, rc)), Some((err, _))) = (ends.stdout, ends.stderr) else {
        unreachable!("both ends were seen")
    };
    running.stdout.truncate(out);
    running.stderr.truncate(err);
    let (stdout, stderr) = running.finish(interrupt)?;
    Ok(CommandResult { rc, stdout, stderr })
}

/// Where the end marks stand, once they do: `(offset, exit status)`.
#[derive(Debug, Default)]
struct Ends {
    stdout: Option<(usize, i32)>,
    stderr: Option<(usize, i32)>,
    searched: [usize; 2],
}

impl Ends {
    fn look(&mut self, running: &Running<'_>) {
        let streams = [(&mut self.stdout, &running.stdout), (&mut self.stderr, &running.stderr)];
        for ((end, stream), searched) in streams.into_iter().zip(&mut self.searched) {
            if end.is_none() {
                *end = running.script.find_end(stream, (*searched).min(stream.len()));
                *searched = stream.len().saturating_sub(running.script.mark_length());
            }
        }
    }

    fn both(&self) -> bool {
        self.stdout.is_some() && self.stderr.is_some()
    }
}
