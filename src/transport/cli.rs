//! An exec stream through the engine's command line as a child process.
//!
//! Everything here is `std` and `poll`: the caller is a forked Ansible worker, where no thread and no runtime may start.
//! The child stays in the worker's process group, so that a Ctrl-C reaches it, and never inherits the worker's stdin
//! (a terminal there stops `runc exec` with SIGTTIN).

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Interrupt;
use crate::error::{Error, Result};
use crate::sys::{self, Memfd};

/// The longest time between two questions to [`Interrupt`].
const TICK: Duration = Duration::from_millis(100);
const CHUNK: usize = 256 * 1024;
/// How many chunks may still be read after a deadline.
const MOST_LATE: u32 = 64;

/// A command line of an engine's client, with the files that exist only while it runs.
#[derive(Debug, Default)]
pub struct CommandLine {
    /// The executable and its arguments.
    pub argv: Vec<OsString>,
    /// Variables added to the worker's own environment.
    pub env: Vec<(OsString, OsString)>,
    /// Kept open until the child has inherited them.
    pub held: Vec<Memfd>,
}

impl CommandLine {
    /// Puts `contents` into a file that only the child can open, and returns the path it opens.
    pub fn hold(&mut self, contents: &[u8]) -> io::Result<OsString> {
        let memfd = Memfd::new(contents)?;
        let path = memfd.path();
        self.held.push(memfd);
        Ok(path)
    }
}

/// What the child reads as its stdin.
#[derive(Clone, Copy, Debug)]
pub enum Input {
    /// End of file at once.
    Nothing,
    /// What [`ExecStream::send`] gives it, until [`ExecStream::finish_input`].
    Stream,
    /// The same, and [`Event::Drained`] asks for more.
    Feed,
}

/// A part of what the child reads.
#[derive(Debug)]
enum Piece<'a> {
    Bytes(Cow<'a, [u8]>),
    Range { file: &'a File, offset: u64, length: usize },
}

impl Piece<'_> {
    fn length(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Range { length, .. } => *length,
        }
    }

    /// Writes what follows the first `sent` bytes, as far as the pipe takes it.
    fn write(&mut self, pipe: &mut ChildStdin, sent: usize) -> io::Result<usize> {
        match self {
            Self::Bytes(bytes) => pipe.write(&bytes[sent..]),
            Self::Range { file, offset, length } => {
                let (from, rest) = (*offset + sent as u64, *length - sent);
                let moved = match sys::splice_from(file, from, &mut *pipe, rest) {
                    // Not every file system can do that.
                    Err(error) if error.kind() == ErrorKind::InvalidInput => {
                        let mut bytes = vec![0; rest];
                        let count = file.read_at(&mut bytes, from)?;
                        pipe.write(&bytes[..count])?
                    }
                    moved => moved?,
                };
                if moved == 0 {
                    *length = sent; // the file has become shorter: that is for its owner to see
                }
                Ok(moved)
            }
        }
    }
}

/// What happened on the stream.
#[derive(Debug)]
pub enum Event<'b> {
    /// Bytes of stdout, never empty.
    Stdout(&'b [u8]),
    /// Bytes of stderr, never empty.
    Stderr(&'b [u8]),
    /// All that was sent is written, and stdin is open for more; only of an [`Input::Feed`].
    Drained,
    /// The child ended and everything it wrote has been delivered.
    Ended(ExitStatus),
    /// The deadline passed.
    Deadline,
}

/// One running child process. Dropping it kills and reaps the child.
#[derive(Debug)]
pub struct ExecStream<'a> {
    target: String,
    child: Child,
    pidfd: Option<OwnedFd>,
    stdin: Option<ChildStdin>,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    queue: VecDeque<Piece<'a>>,
    /// Bytes of the queue's first that are written.
    sent: usize,
    written: u64,
    feeds: bool,
    /// [`Event::Drained`] was the answer, and nothing was sent since.
    asked: bool,
    finished: bool,
    ended: Option<ExitStatus>,
    checked: Instant,
    late: u32,
    buffer: Vec<u8>,
}

impl<'a> ExecStream<'a> {
    /// Starts the child. `target` and `engine` are for messages.
    ///
    /// # Panics
    /// When the command line is empty.
    pub fn spawn(target: &str, engine: &'static str, line: &CommandLine, input: Input) -> Result<Self> {
        let executable = line.argv.first().expect("a command line names its executable");
        let feeds = matches!(input, Input::Feed);
        let stdin = match input {
            Input::Nothing => Stdio::null(),
            Input::Stream | Input::Feed => Stdio::piped(),
        };
        let mut child = command(line)
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|source| spawn_error(target, engine, executable, source))?;
        let (stdin, stdout, stderr) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let mut stream = Self {
            target: target.to_owned(),
            pidfd: sys::pidfd(&child),
            child,
            stdin,
            stdout,
            stderr,
            queue: VecDeque::new(),
            sent: 0,
            written: 0,
            feeds,
            asked: false,
            finished: false,
            ended: None,
            checked: Instant::now(),
            late: 0,
            buffer: vec![0; CHUNK],
        };
        stream.tune().map_err(|source| stream.broken(source))?;
        Ok(stream)
    }

    fn tune(&mut self) -> io::Result<()> {
        for pipe in [fd(self.stdin.as_ref()), fd(self.stdout.as_ref()), fd(self.stderr.as_ref())]
            .into_iter()
            .flatten()
        {
            sys::tune_pipe(pipe)?;
        }
        Ok(())
    }

    /// Queues bytes for stdin. A child that closes its stdin early is no error: the rest is dropped.
    pub fn send(&mut self, bytes: impl Into<Cow<'a, [u8]>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() && self.stdin.is_some() {
            self.asked = false;
            self.queue.push_back(Piece::Bytes(bytes));
        }
    }

    /// Queues `length` bytes of a file from `offset`, which pass from the page cache to the child without a copy in this process.
    pub fn send_from(&mut self, file: &'a File, offset: u64, length: usize) {
        if length > 0 && self.stdin.is_some() {
            self.asked = false;
            self.queue.push_back(Piece::Range { file, offset, length });
        }
    }

    /// Closes stdin once everything queued is written.
    pub fn finish_input(&mut self) {
        self.finished = true;
        self.close_input_when_done();
    }

    /// Closes stdin at once: nothing more of it is wanted.
    pub fn drop_input(&mut self) {
        self.queue.clear();
        self.stdin = None;
    }

    /// Bytes of stdin that the child has been given.
    pub fn written(&self) -> u64 {
        self.written
    }

    fn close_input_when_done(&mut self) {
        if self.finished && self.queue.is_empty() {
            self.stdin = None;
        }
    }

    /// Waits for the next thing to happen, at most until `deadline`.
    pub fn next(&mut self, deadline: Option<Instant>, interrupt: &mut dyn Interrupt) -> Result<Event<'_>> {
        loop {
            if self.checked.elapsed() >= TICK {
                interrupt.check()?;
                self.checked = Instant::now();
            }
            // What is there already comes before the deadline: this process may have been stopped for a while. A child that writes
            // without end does not put it off for ever.
            let late = deadline.is_some_and(|deadline| deadline <= Instant::now());
            self.late = if late { self.late + 1 } else { 0 };
            if self.late > MOST_LATE {
                return Ok(Event::Deadline);
            }
            if let Some((is_stderr, count)) = self.read_ready().map_err(|source| self.broken(source))? {
                let bytes = &self.buffer[..count];
                return Ok(if is_stderr { Event::Stderr(bytes) } else { Event::Stdout(bytes) });
            }
            self.write_ready().map_err(|source| self.broken(source))?;
            // Judge the child's end only with empty pipes: what it wrote comes first.
            if let Some(status) = self.ended {
                return Ok(Event::Ended(status));
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(Event::Deadline);
            }
            let asks = self.feeds && !self.asked && !self.finished;
            if asks && self.queue.is_empty() && self.stdin.is_some() {
                self.asked = true;
                return Ok(Event::Drained);
            }
            let wait = deadline.map_or(TICK, |deadline| TICK.min(deadline - now));
            let interrupted = self.wait(wait).map_err(|source| self.broken(source))?;
            if interrupted {
                interrupt.check()?;
                self.checked = Instant::now();
            }
        }
    }

    /// Reads once from whichever pipe has bytes: `(is_stderr, count)`.
    fn read_ready(&mut self) -> io::Result<Option<(bool, usize)>> {
        // stderr first: it carries the start marker and the prompts, and is short.
        if let Some(count) = read_some(&mut self.stderr, &mut self.buffer)? {
            return Ok(Some((true, count)));
        }
        Ok(read_some(&mut self.stdout, &mut self.buffer)?.map(|count| (false, count)))
    }

    fn write_ready(&mut self) -> io::Result<()> {
        while let (Some(stdin), Some(piece)) = (self.stdin.as_mut(), self.queue.front_mut()) {
            match piece.write(stdin, self.sent) {
                Ok(count) => {
                    self.sent += count;
                    self.written += count as u64;
                    if self.sent >= piece.length() {
                        self.queue.pop_front();
                        self.sent = 0;
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    self.queue.clear();
                    self.finished = true;
                }
                Err(error) => return Err(error),
            }
        }
        self.close_input_when_done();
        Ok(())
    }

    /// Waits for a pipe or the child's end; true when a signal arrived instead.
    fn wait(&mut self, mut timeout: Duration) -> io::Result<bool> {
        let mut fds = Vec::with_capacity(4);
        if !self.queue.is_empty() {
            fds.extend(fd(self.stdin.as_ref()).map(|stdin| PollFd::from_borrowed_fd(stdin, PollFlags::OUT)));
        }
        for readable in [fd(self.stdout.as_ref()), fd(self.stderr.as_ref()), fd(self.pidfd.as_ref())]
            .into_iter()
            .flatten()
        {
            fds.push(PollFd::from_borrowed_fd(readable, PollFlags::IN));
        }
        if self.pidfd.is_none() && self.stdout.is_none() && self.stderr.is_none() {
            timeout = timeout.min(Duration::from_millis(5)); // nothing will wake us at the child's end
        }
        let timeout = Timespec::try_from(timeout).expect("a tick is a small number");
        let interrupted = match poll(&mut fds, Some(&timeout)) {
            Ok(_) => false,
            Err(rustix::io::Errno::INTR) => true,
            Err(error) => return Err(error.into()),
        };
        self.ended = self.child.try_wait()?;
        Ok(interrupted)
    }

    fn broken(&self, source: io::Error) -> Error {
        Error::Stream { target: self.target.clone(), source }
    }
}

impl Drop for ExecStream<'_> {
    fn drop(&mut self) {
        if self.ended.is_none() {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// Why the client `executable` could not be started.
pub fn spawn_error(target: &str, engine: &'static str, executable: &OsStr, source: io::Error) -> Error {
    let (target, executable) = (target.to_owned(), executable.to_string_lossy().into_owned());
    match source.kind() {
        ErrorKind::NotFound => Error::EngineMissing { target, engine, executable },
        ErrorKind::ArgumentListTooLong => Error::Option {
            target,
            option: "the command",
            reason: "it is longer than the system allows one argument to be; use the script or copy module"
                .to_owned(),
        },
        _ => Error::Spawn { target, executable, source },
    }
}

fn fd(of: Option<&impl AsFd>) -> Option<BorrowedFd<'_>> {
    of.map(AsFd::as_fd)
}

/// Bytes read, or `None` when there are none now; a pipe at its end is dropped.
fn read_some(pipe: &mut Option<impl Read>, buffer: &mut [u8]) -> io::Result<Option<usize>> {
    loop {
        let Some(open) = pipe else { return Ok(None) };
        match open.read(buffer) {
            Ok(0) => *pipe = None,
            Ok(count) => return Ok(Some(count)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(None),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn command(line: &CommandLine) -> Command {
    let mut command = Command::new(&line.argv[0]);
    command.args(&line.argv[1..]).envs(line.env.iter().map(|(name, value)| (name, value)));
    command
}

/// Runs a client that needs no answer: waits for its end at most `bound`, then leaves it to itself.
///
/// It has a process group of its own: what ends this process and its group, the reason to run it, does not end it.
pub fn set_off(line: &CommandLine, bound: Duration) {
    let until = Instant::now() + bound;
    let nothing = || Stdio::null();
    let started = command(line).stdin(nothing()).stdout(nothing()).stderr(nothing()).process_group(0).spawn();
    let Ok(mut child) = started else { return };
    while matches!(child.try_wait(), Ok(None)) && Instant::now() < until {
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// How a short question to the engine's client ended.
#[derive(Debug)]
pub struct Answer {
    /// The client's exit status.
    pub status: ExitStatus,
    /// All of its stdout.
    pub stdout: Vec<u8>,
    /// All of its stderr.
    pub stderr: Vec<u8>,
}

/// The most an answer may hold: a client that writes without end is cut off.
const LONGEST_ANSWER: usize = 16 << 20;

/// Runs a client to its end, for questions such as `runc state`; `None` when it took longer than `timeout`.
pub fn ask(
    target: &str,
    engine: &'static str,
    line: &CommandLine,
    timeout: Duration,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Answer>> {
    let deadline = Instant::now() + timeout;
    let mut stream = ExecStream::spawn(target, engine, line, Input::Nothing)?;
    let (mut stdout, mut stderr) = (Vec::new(), Vec::new());
    loop {
        match stream.next(Some(deadline), interrupt)? {
            Event::Stdout(bytes) => stdout.extend_from_slice(bytes),
            Event::Stderr(bytes) => stderr.extend_from_slice(bytes),
            Event::Ended(status) => {
                return Ok(Some(Answer { status, stdout, stderr }));
            }
            Event::Deadline | Event::Drained => return Ok(None),
        }
        if stdout.len() + stderr.len() > LONGEST_ANSWER {
            return Ok(None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::Uninterrupted;

    fn line(argv: &[&str]) -> CommandLine {
        CommandLine { argv: argv.iter().map(OsString::from).collect(), ..CommandLine::default() }
    }

    fn run(argv: &[&str], input: Option<&[u8]>) -> (ExitStatus, Vec<u8>, Vec<u8>) {
        let mut stream = ExecStream::spawn("t", "runc", &line(argv), Input::Stream).unwrap();
        if let Some(bytes) = input {
            stream.send(bytes);
        }
        stream.finish_input();
        let (mut out, mut err) = (Vec::new(), Vec::new());
        loop {
            match stream.next(None, &mut Uninterrupted).unwrap() {
                Event::Stdout(bytes) => out.extend_from_slice(bytes),
                Event::Stderr(bytes) => err.extend_from_slice(bytes),
                Event::Ended(status) => return (status, out, err),
                Event::Deadline | Event::Drained => unreachable!("no deadline was set, and it is no feed"),
            }
        }
    }

    #[test]
    fn both_directions_at_once_do_not_deadlock() {
        let data = vec![7_u8; 5 << 20];
        let (status, out, err) = run(&["cat"], Some(&data));
        assert!(status.success() && err.is_empty());
        assert_eq!(out, data);
    }

    #[test]
    fn a_file_passes_as_far_as_it_goes_and_more_is_asked_for() {
        let path = std::env::temp_dir().join(format!("gangway-feed-{}", sys::nonce().unwrap()));
        let data: Vec<u8> = (0..3_000_000_u32).flat_map(u32::to_le_bytes).collect();
        std::fs::write(&path, &data).unwrap();
        // /proc/self/environ cannot be spliced.
        for (path, data) in [
            (path.as_path(), data.as_slice()),
            ("/proc/self/environ".as_ref(), &std::fs::read("/proc/self/environ").unwrap()),
        ] {
            let file = File::open(path).unwrap();
            let mut stream = ExecStream::spawn("t", "runc", &line(&["cat"]), Input::Feed).unwrap();
            let (mut asked, mut out) = (0, Vec::new());
            loop {
                match stream.next(None, &mut Uninterrupted).unwrap() {
                    Event::Drained if asked == 0 => {
                        stream.send(b"head".as_slice());
                        stream.send_from(&file, 1, data.len() + 99);
                        stream.send_from(&file, data.len() as u64 + 100, 5);
                        asked += 1;
                    }
                    Event::Drained => {
                        stream.finish_input();
                        asked += 1;
                    }
                    Event::Stdout(bytes) => out.extend_from_slice(bytes),
                    Event::Stderr(_) | Event::Deadline => unreachable!("cat says nothing, and has time"),
                    Event::Ended(status) => break assert!(status.success()),
                }
            }
            assert_eq!((asked, out.len(), stream.written()), (2, data.len() + 3, data.len() as u64 + 3));
            assert!(out[..4] == *b"head" && out[4..] == data[1..]);
        }
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_child_that_ignores_its_stdin_is_no_error() {
        let (status, out, _) = run(&["sh", "-c", "exec <&-; echo done; exit 3"], Some(&vec![0; 1 << 20]));
        assert_eq!((status.code(), out.as_slice()), (Some(3), b"done\n".as_slice()));
    }

    #[test]
    fn the_end_of_the_child_is_seen_although_a_grandchild_holds_its_pipes() {
        let started = Instant::now();
        let (status, out, _) = run(&["sh", "-c", "echo now; sleep 5 & exit 0"], None);
        assert!(status.success() && started.elapsed() < Duration::from_secs(4));
        assert_eq!(out, b"now\n");
    }

    #[test]
    fn a_missing_executable_is_named() {
        let error =
            ExecStream::spawn("runc container \"x\"", "runc", &line(&["/no/such/runc"]), Input::Nothing)
                .unwrap_err();
        assert_eq!(
            error.to_string(),
            "runc container \"x\": the executable \"/no/such/runc\" was not found: install it, or name it in ansible_runc_executable"
        );
    }

    #[test]
    fn a_question_has_a_bound() {
        let asked = ask("t", "runc", &line(&["sleep", "10"]), Duration::from_millis(150), &mut Uninterrupted);
        assert!(asked.unwrap().is_none());
    }

    #[test]
    fn a_child_that_writes_without_end_meets_its_deadline() {
        let started = Instant::now();
        let deadline = started + Duration::from_millis(200);
        let mut stream =
            ExecStream::spawn("t", "runc", &line(&["cat", "/dev/zero"]), Input::Nothing).unwrap();
        while !matches!(stream.next(Some(deadline), &mut Uninterrupted).unwrap(), Event::Deadline) {}
        assert!(started.elapsed() < Duration::from_secs(5));
    }

    #[test]
    fn an_interrupt_ends_the_wait() {
        struct Now;
        impl Interrupt for Now {
            fn check(&mut self) -> Result<()> {
                Err(Error::Interrupted)
            }
        }
        let started = Instant::now();
        let asked = ask("t", "runc", &line(&["sleep", "10"]), Duration::from_secs(9), &mut Now);
        assert!(matches!(asked, Err(Error::Interrupted)) && started.elapsed() < Duration::from_secs(1));
    }
}
