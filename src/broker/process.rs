//! The processes that the broker starts for its clients, and their pipes.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::future::pending;
use std::io::ErrorKind;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::rc::Rc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Pid, Resource, Rlimit, Signal};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

use super::outbox::Outbox;
use super::server::{Broker, Shared};
use crate::sys::{self, Memfd};
use crate::wire::message::{Blob, Spawn, SpawnFile};

/// What is kept of stderr to explain an end.
const TAIL: usize = 4 << 10;
/// And so much of it is told.
const TOLD: usize = 400;
/// The most of a file that ENDED carries.
const LONGEST_FILE: u64 = 1 << 20;
/// After the end of its stdout a process may take so long to say how it ended.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// After the end of its stdin it may take so long to end.
const GRACE: Duration = Duration::from_secs(5);
/// A default pipe that fills is made larger once.
const PIPE: usize = 64 << 10;

/// What the broker knows of a process; its pipes are its task's ([`serve`]).
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) outbox: Outbox,
    /// Wakes the task: something here has changed.
    pub(super) poke: Rc<Notify>,
    /// Nothing comes after what waits in the outbox: stdin is closed then.
    pub(super) finished: bool,
    /// Stdin is closed at once, and the process killed at that time.
    pub(super) end: Option<Instant>,
    /// The files made for it.
    pub(super) files: Vec<Memfd>,
    /// The end of its stderr, once it is an agent.
    pub(super) tail: Vec<u8>,
}

impl Process {
    /// Takes bytes of stderr.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        let over = self.tail.len().saturating_sub(TAIL);
        self.tail.drain(..over);
    }

    /// What is in its files now.
    pub(super) fn contents(&self) -> Vec<Blob> {
        self.files.iter().map(|file| Blob(file.contents(LONGEST_FILE).unwrap_or_default())).collect()
    }

    /// Ends it: nothing more is written, and if that is not enough it is killed.
    pub(super) fn end(&mut self) {
        self.end_at(Instant::now() + GRACE);
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) {
        self.end_at(Instant::now());
    }

    fn end_at(&mut self, when: Instant) {
        self.end = Some(self.end.map_or(when, |before| before.min(when)));
        self.outbox = Outbox::default();
        self.poke.notify_one();
    }
}

/// The pipes of a process and how it ends.
#[derive(Debug)]
pub(super) struct Handles {
    child: Child,
    exit: Option<Receiver>,
    stdin: Option<Sender>,
    stdout: Option<Receiver>,
    stderr: Option<Receiver>,
    /// Stdin and stdout were made larger, once they had been full.
    grown: (bool, bool),
}

/// Starts the process with the limit `nofile`; an errno when it cannot be.
pub(super) fn spawn(spawn: &Spawn, nofile: Rlimit) -> Result<(Process, Handles), i32> {
    let errno = |error: std::io::Error| error.raw_os_error().unwrap_or(Errno::INVAL.raw_os_error());
    let mut files = Vec::new();
    let mut paths = Vec::new();
    for SpawnFile { path, contents } in &spawn.files {
        let file = Memfd::new(&contents.0).map_err(errno)?;
        paths.push((path.as_bytes(), file.path()));
        files.push(file);
    }
    let text = |blob: &Blob| replaced(&blob.0, &paths);
    let mut argv = spawn.argv.iter().map(text);
    let mut command = Command::new(argv.next().ok_or(Errno::INVAL.raw_os_error())?);
    command.args(argv).env_clear().current_dir(Path::new(OsStr::from_bytes(&spawn.cwd.0)));
    command.envs(spawn.env.iter().map(|(name, value)| (OsString::from_vec(name.0.clone()), text(value))));
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // A group of its own: what the client of an engine has started ends with it.
    command.process_group(0);
    let child = as_the_client_would(spawn.umask, nofile, || command.spawn()).map_err(errno)?;
    for file in &files {
        file.close_on_exec().map_err(errno)?;
    }
    let pid = child.id();
    let handles = Handles::new(child).map_err(errno)?;
    let process = Process {
        pid,
        outbox: Outbox::default(),
        poke: Rc::default(),
        finished: false,
        end: None,
        files,
        tail: Vec::new(),
    };
    Ok((process, handles))
}

/// Umask and limits are inherited, and one thread has nobody beside it whom a moment of others would disturb.
fn as_the_client_would<T>(
    umask: u32,
    nofile: Rlimit,
    spawn: impl FnOnce() -> std::io::Result<T>,
) -> std::io::Result<T> {
    let before = rustix::process::umask(Mode::from_raw_mode(umask & 0o777));
    let ours = rustix::process::getrlimit(Resource::Nofile);
    let lowered = rustix::process::setrlimit(Resource::Nofile, nofile).is_ok();
    let result = spawn();
    if lowered {
        let _ = rustix::process::setrlimit(Resource::Nofile, ours);
    }
    rustix::process::umask(before);
    result
}

/// `text` with each path replaced; `/proc/self/fd/1` is not the beginning of `/proc/self/fd/12`.
fn replaced(text: &[u8], paths: &[(&[u8], OsString)]) -> OsString {
    let mut result = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, others)) = rest.split_first() {
        let found = paths.iter().find(|(old, _)| {
            !old.is_empty()
                && rest.strip_prefix(*old).is_some_and(|after| !after.first().is_some_and(u8::is_ascii_digit))
        });
        if let Some((old, new)) = found {
            result.extend_from_slice(new.as_bytes());
            rest = &rest[old.len()..];
        } else {
            result.push(*first);
            rest = others;
        }
    }
    OsString::from_vec(result)
}

impl Handles {
    fn new(child: Child) -> std::io::Result<Self> {
        let mut handles =
            Self { child, exit: None, stdin: None, stdout: None, stderr: None, grown: (false, false) };
        handles.register().inspect_err(|_| {
            handles.kill();
            let _ = handles.child.wait();
        })?;
        Ok(handles)
    }

    fn register(&mut self) -> std::io::Result<()> {
        let Child { stdin, stdout, stderr, .. } = &mut self.child;
        self.stdin = stdin.take().map(|pipe| Sender::from_owned_fd(pipe.into())).transpose()?;
        self.stdout = stdout.take().map(|pipe| Receiver::from_owned_fd(pipe.into())).transpose()?;
        self.stderr = stderr.take().map(|pipe| Receiver::from_owned_fd(pipe.into())).transpose()?;
        self.exit = sys::pidfd(&self.child).map(watched).transpose()?;
        Ok(())
    }

    /// Whether the process has ended, or closed its stdout, by now.
    fn has_ended(&self) -> bool {
        let exit = self.exit.iter().map(|pidfd| PollFd::new(pidfd, PollFlags::IN));
        let stdout = self.stdout.iter().map(|pipe| PollFd::new(pipe, PollFlags::empty()));
        let mut fds: Vec<_> = exit.chain(stdout).collect();
        poll(&mut fds, Some(&Timespec::default())).is_ok_and(|ready| ready > 0)
    }

    fn kill(&mut self) {
        if let Some(group) = Pid::from_raw(self.child.id().cast_signed()) {
            let _ = rustix::process::kill_process_group(group, Signal::KILL);
        }
        let _ = self.child.kill();
    }
}

/// Which of a process's streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Output {
    Stdout,
    Stderr,
}

/// Moves bytes between a process and the broker until it has ended and been reaped.
pub(super) async fn serve(broker: Shared, number: u32, mut handles: Handles) {
    let mut status: Option<ExitStatus> = None;
    let mut killed = false;
    let mut last_words: Option<Instant> = None;
    let Some(poke) = broker.borrow().processes.get(&number).map(|process| process.poke.clone()) else {
        return;
    };
    loop {
        let (write, paused, end) = {
            let broker = broker.borrow();
            let Some(process) = broker.processes.get(&number) else { return };
            if process.end.is_some() || (process.finished && process.outbox.is_empty()) {
                handles.stdin = None;
            }
            (!process.outbox.is_empty(), broker.is_paused(number), process.end)
        };
        if !killed && end.is_some_and(|end| end <= Instant::now()) {
            handles.kill();
            killed = true;
        }
        if status.is_some() && !paused && !drain(&broker, number, &mut handles) {
            broker.borrow_mut().process_ended(number, status);
            return;
        }
        if last_words.is_some_and(|until| until <= Instant::now()) {
            last_words = None;
            broker.borrow_mut().stream_lost(number, "its stream ended");
        }
        let wake = [end.filter(|_| !killed), last_words].into_iter().flatten().min();
        tokio::select! {
            () = poke.notified() => {}
            () = writable(handles.stdin.as_ref()), if write => write_some(&broker, number, &mut handles),
            () = readable(handles.stdout.as_ref()), if !paused => {
                read_some(&broker, number, Output::Stdout, &mut handles);
                if handles.stdout.is_none() && broker.borrow_mut().stream_ended(number) {
                    handles.stdin = None;
                    last_words = Some(Instant::now() + LAST_WORDS);
                }
            }
            () = readable(handles.stderr.as_ref()), if !paused => {
                read_some(&broker, number, Output::Stderr, &mut handles);
            }
            () = exited(handles.exit.as_ref()), if status.is_none() => {
                status = handles.child.try_wait().unwrap_or(Some(ExitStatus::from_raw(0)));
                last_words = last_words.filter(|_| status.is_none());
            }
            () = at(wake) => {}
        }
        // One that always has something to say is read in turn with all others.
        tokio::task::yield_now().await;
    }
}

/// A pidfd as something that becomes readable; tokio's own type for any descriptor cannot be had safely.
pub(super) fn watched(pidfd: OwnedFd) -> std::io::Result<Receiver> {
    Receiver::from_file_unchecked(File::from(pidfd))
}

async fn writable(pipe: Option<&Sender>) {
    match pipe {
        Some(pipe) => drop(pipe.writable().await), // an error shows itself at the next write
        None => pending().await,
    }
}

async fn readable(pipe: Option<&Receiver>) {
    match pipe {
        Some(pipe) => drop(pipe.readable().await),
        None => pending().await,
    }
}

async fn exited(pidfd: Option<&Receiver>) {
    match pidfd {
        Some(pidfd) => drop(pidfd.readable().await),
        None => tokio::time::sleep(Duration::from_millis(50)).await,
    }
}

async fn at(when: Option<Instant>) {
    match when {
        Some(when) => sleep_until(when).await,
        None => pending().await,
    }
}

fn write_some(broker: &Shared, number: u32, handles: &mut Handles) {
    let mut broker = broker.borrow_mut();
    let (Some(pipe), Some(process)) = (&handles.stdin, broker.processes.get_mut(&number)) else { return };
    let begins = process.outbox.begins_a_request();
    let piece = process.outbox.piece();
    // The kernel may know what this loop has not come to yet. What would be written is then not lost: nothing was asked.
    if begins && handles.has_ended() {
        handles.stdin = None;
        broker.input_closed(number);
        return;
    }
    if piece.len() > PIPE && !std::mem::replace(&mut handles.grown.0, true) {
        let _ = sys::tune_pipe(pipe);
    }
    match pipe.try_write(piece) {
        Ok(count) => {
            let begun = process.outbox.wrote(count);
            broker.begun(number, &begun);
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {}
        Err(_) => {
            handles.stdin = None;
            broker.input_closed(number);
        }
    }
}

/// Reads once; true when there may be more.
fn read_some(broker: &Shared, number: u32, which: Output, handles: &mut Handles) -> bool {
    let pipe = if which == Output::Stdout { &mut handles.stdout } else { &mut handles.stderr };
    let Some(open) = pipe.as_ref() else { return false };
    let mut broker = broker.borrow_mut();
    let mut buffer = std::mem::take(&mut broker.buffer);
    let result = open.try_read(&mut buffer);
    if matches!(result, Ok(PIPE)) && which == Output::Stdout && !std::mem::replace(&mut handles.grown.1, true)
    {
        let _ = sys::tune_pipe(open);
    }
    let more = match result {
        Ok(count @ 1..) => {
            broker.said(number, which, &buffer[..count]);
            true
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => false,
        Ok(0) | Err(_) => {
            *pipe = None;
            false
        }
    };
    broker.buffer = buffer;
    more
}

/// Reads what an ended process has left behind; true when the next round must go on with that.
fn drain(broker: &Shared, number: u32, handles: &mut Handles) -> bool {
    let more = read_some(broker, number, Output::Stderr, handles)
        | read_some(broker, number, Output::Stdout, handles);
    if more && let Some(process) = broker.borrow().processes.get(&number) {
        process.poke.notify_one();
    }
    more
}

impl Broker {
    /// Words for how a process ended, its last ones included.
    pub(super) fn why(status: Option<ExitStatus>, tail: &[u8]) -> String {
        let how = match status {
            None => "its stream ended".to_owned(),
            Some(status) => match (status.code(), status.signal()) {
                (Some(code), _) => format!("the engine's client ended with exit status {code}"),
                (_, Some(signal)) => format!("the engine's client was ended by signal {signal}"),
                _ => "the engine's client ended".to_owned(),
            },
        };
        let tail = &tail[tail.len().saturating_sub(TOLD)..];
        if tail.is_empty() { how } else { format!("{how}: {}", crate::error::said(tail)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_replaced_once_and_whole() {
        let paths: [(&[u8], OsString); 2] =
            [(b"/proc/self/fd/7", "/proc/self/fd/8".into()), (b"/proc/self/fd/8", "/proc/self/fd/9".into())];
        let text = |text: &[u8]| replaced(text, &paths).into_vec();
        assert_eq!(text(b"--process=/proc/self/fd/7"), b"--process=/proc/self/fd/8");
        assert_eq!(text(b"/proc/self/fd/7:/proc/self/fd/8"), b"/proc/self/fd/8:/proc/self/fd/9");
        assert_eq!(text(b"/proc/self/fd/77 /proc/self/fd/7"), b"/proc/self/fd/77 /proc/self/fd/8");
        assert_eq!(text(b"exec"), b"exec");
    }
}
