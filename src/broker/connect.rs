//! From a worker to its broker: connect, or start one and connect.
//!
//! The caller is a forked Ansible worker: no runtime, no thread, no wait above 100 ms without a question to [`Interrupt`]. Whoever
//! finds no broker takes the lock and looks again; so a hundred workers start one.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{CWD, FlockOperation, Mode, OFlags};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use super::control_path::{self, ControlPath, refused, unusable};
use crate::error::{Result, said};
use crate::sys;
use crate::transport::Interrupt;
use crate::wire::frame::{Frames, Kind};
use crate::wire::message::{self, BrokerHello, ClientHello, Status};
use crate::wire::{VERSION, frame::Frame};

const TICK: Duration = Duration::from_millis(100);
/// What a broker's HELLO may take.
const HELLO: Duration = Duration::from_secs(2);
/// What a broker's start may take.
const START: Duration = Duration::from_secs(10);
/// What waiting for somebody else's start may take.
const LOCKED: Duration = Duration::from_secs(15);
/// How often a broker may close a connection because it is just ending.
const ATTEMPTS: u32 = 3;
/// The variables that a broker's Python may need; the rest of the environment, secrets included, is not for a daemon.
const KEPT: [&str; 4] = ["PATH", "HOME", "XDG_STATE_HOME", "LD_LIBRARY_PATH"];
const PROGRAM: &str =
    "import sys; sys.path.insert(0, sys.argv.pop(1)); from ansible_gangway import broker; broker.main()";

/// How to start a broker, and for whom.
#[derive(Clone, Debug)]
pub struct Start {
    /// `sys.executable`.
    pub python: PathBuf,
    /// The directory in which Python finds the package.
    pub package: PathBuf,
    /// As in [`ClientHello`].
    pub play: u32,
}

/// A connection after both HELLOs.
#[derive(Debug)]
pub struct Connected {
    /// It does not block.
    pub stream: UnixStream,
    /// What the broker said.
    pub hello: BrokerHello,
    /// What came after that.
    pub frames: Frames,
}

/// Connects to the broker, and starts it when there is none.
pub fn connect(path: &ControlPath, start: &Start, interrupt: &mut dyn Interrupt) -> Result<Connected> {
    for _ in 0..ATTEMPTS {
        let stream = match open(path, interrupt)? {
            Some(stream) => stream,
            None => started(path, start, interrupt)?,
        };
        if let Some(connected) = greet(stream, path, start.play, interrupt)? {
            return Ok(connected);
        }
    }
    let socket = path.socket();
    Err(refused(format!("the process that listens on {} closes every connection: end it", socket.display())))
}

/// Connects to the broker if there is one.
pub fn connect_existing(
    path: &ControlPath,
    play: u32,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Connected>> {
    for _ in 0..ATTEMPTS {
        let Some(stream) = open(path, interrupt)? else { return Ok(None) };
        if let Some(connected) = greet(stream, path, play, interrupt)? {
            return Ok(Some(connected));
        }
    }
    Ok(None)
}

impl Connected {
    /// Asks a question that DONE answers; at most for `bound`.
    pub fn ask(&mut self, question: Kind, bound: Duration, interrupt: &mut dyn Interrupt) -> Result<Status> {
        let until = Instant::now() + bound;
        let lost = |error: io::Error| refused(format!("talking to it failed: {error}"));
        let mut bytes = Vec::new();
        Frame::empty(question, 1).write_to(&mut bytes);
        send(&self.stream, &bytes, until, interrupt)?.map_err(lost)?;
        loop {
            let frame = receive(&self.stream, &mut self.frames, until, interrupt)?.map_err(lost)?;
            if frame.kind == Kind::Done {
                return message::head(&frame).map_err(|error| lost(error.into()));
            }
        }
    }
}

/// A connection to whoever of this user listens; `None` when nobody does.
fn open(path: &ControlPath, interrupt: &mut dyn Interrupt) -> Result<Option<UnixStream>> {
    let until = Instant::now() + START;
    let socket = path.socket();
    let address = SocketAddrUnix::new(&socket).map_err(|error| unusable(&socket, &error.into()))?;
    loop {
        interrupt.check()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)
            .map_err(|error| unusable(&socket, &error.into()))?;
        match rustix::net::connect(&fd, &address) {
            Ok(()) => return ours(path, fd).map(Some),
            Err(Errno::NOENT | Errno::CONNREFUSED) => return Ok(None),
            // So many connect at once that it has not accepted yet.
            Err(Errno::AGAIN | Errno::INTR) if Instant::now() < until => std::thread::sleep(TICK / 10),
            Err(error) => return Err(unusable(&socket, &error.into())),
        }
    }
}

fn ours(path: &ControlPath, fd: OwnedFd) -> Result<UnixStream> {
    let socket = path.socket();
    let peer =
        rustix::net::sockopt::socket_peercred(&fd).map_err(|error| unusable(&socket, &error.into()))?;
    if peer.uid != rustix::process::geteuid() {
        return Err(refused(format!(
            "the process that listens on {} belongs to the user {}: remove that file",
            socket.display(),
            peer.uid.as_raw()
        )));
    }
    Ok(fd.into())
}

/// Exchanges HELLOs; `None` when the other side closed instead, as a broker does that is just ending.
fn greet(
    stream: UnixStream,
    path: &ControlPath,
    play: u32,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Connected>> {
    let until = Instant::now() + HELLO;
    let foreign = |why: String| {
        refused(format!(
            "what listens on {} is no broker of this version ({why}): end it, or remove that file",
            path.socket().display()
        ))
    };
    let mut bytes = Vec::new();
    message::frame(Kind::Hello, 0, &ClientHello { version: VERSION, play }).write_to(&mut bytes);
    let mut frames = Frames::default();
    let answer = match send(&stream, &bytes, until, interrupt)? {
        Ok(()) => receive(&stream, &mut frames, until, interrupt)?,
        Err(error) => Err(error),
    };
    match answer {
        Ok(frame) => {
            let hello: BrokerHello = Some(&frame)
                .filter(|frame| frame.kind == Kind::Hello)
                .and_then(|frame| message::head(frame).ok())
                .ok_or_else(|| foreign("it did not greet".to_owned()))?;
            if hello.version != VERSION {
                return Err(foreign(format!("it speaks version {}", hello.version)));
            }
            Ok(Some(Connected { stream, hello, frames }))
        }
        Err(error) if closed(&error) => Ok(None),
        Err(error) => Err(foreign(error.to_string())),
    }
}

fn closed(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe)
}

/// The outer error is the interruption, here and below.
fn send(
    mut stream: &UnixStream,
    mut bytes: &[u8],
    until: Instant,
    interrupt: &mut dyn Interrupt,
) -> Result<io::Result<()>> {
    while !bytes.is_empty() {
        match stream.write(bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(error) if again(&error) => {
                if let Err(error) = wait(stream, PollFlags::OUT, until, interrupt)? {
                    return Ok(Err(error));
                }
            }
            Err(error) => return Ok(Err(error)),
        }
    }
    Ok(Ok(()))
}

fn receive(
    mut stream: &UnixStream,
    frames: &mut Frames,
    until: Instant,
    interrupt: &mut dyn Interrupt,
) -> Result<io::Result<Frame>> {
    let mut buffer = [0; 4096];
    loop {
        match frames.next_frame() {
            Ok(Some(frame)) => return Ok(Ok(frame)),
            Ok(None) => {}
            Err(error) => return Ok(Err(io::Error::other(error))),
        }
        match stream.read(&mut buffer) {
            Ok(0) => return Ok(Err(ErrorKind::UnexpectedEof.into())),
            Ok(count) => frames.push(&buffer[..count]),
            Err(error) if again(&error) => {
                if let Err(error) = wait(stream, PollFlags::IN, until, interrupt)? {
                    return Ok(Err(error));
                }
            }
            Err(error) => return Ok(Err(error)),
        }
    }
}

fn again(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

/// Waits a tick at most.
fn wait(
    fd: impl AsFd,
    flags: PollFlags,
    until: Instant,
    interrupt: &mut dyn Interrupt,
) -> Result<io::Result<()>> {
    interrupt.check()?;
    let left = until.saturating_duration_since(Instant::now());
    if left.is_zero() {
        return Ok(Err(io::Error::new(ErrorKind::TimedOut, "it does not answer")));
    }
    let timeout = Timespec::try_from(left.min(TICK)).expect("a tick is a small number");
    match poll(&mut [PollFd::new(&fd, flags)], Some(&timeout)) {
        Ok(_) | Err(Errno::INTR) => Ok(Ok(())),
        Err(error) => Ok(Err(error.into())),
    }
}

/// Waits until somebody has started a broker, if need be ourselves.
fn started(path: &ControlPath, start: &Start, interrupt: &mut dyn Interrupt) -> Result<UnixStream> {
    let until = Instant::now() + LOCKED;
    while Instant::now() < until {
        if let Some(lock) = Lock::take(path)? {
            if let Some(stream) = open(path, interrupt)? {
                return Ok(stream);
            }
            spawn(path, start, interrupt)?;
            let stream = open(path, interrupt)?;
            drop(lock);
            return stream.ok_or_else(|| refused("it ended as soon as it had started".to_owned()));
        }
        interrupt.check()?;
        std::thread::sleep(TICK / 10);
        if let Some(stream) = open(path, interrupt)? {
            return Ok(stream);
        }
    }
    let lock = path.lock();
    Err(refused(format!(
        "somebody else has been starting it for {} seconds and holds {}",
        LOCKED.as_secs(),
        lock.display()
    )))
}

/// Held while a broker starts or ends. The file is removed by a broker that ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Lock {
    /// `None` when somebody else has it.
    pub(super) fn take(path: &ControlPath) -> Result<Option<Self>> {
        let name = path.lock();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = match rustix::fs::openat(CWD, &name, flags, Mode::RUSR | Mode::WUSR) {
            Ok(fd) => File::from(fd),
            // A broker that ended has just removed the directory.
            Err(Errno::NOENT) => {
                control_path::make(&path.directory)?;
                return Ok(None);
            }
            Err(error) => return Err(unusable(&name, &error.into())),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK | Errno::INTR) => return Ok(None),
            Err(error) => return Err(unusable(&name, &error.into())),
        }
        // It may be the lock of a broker that ended and removed it: others would not see it any more.
        let held = file.metadata().map_err(|error| unusable(&name, &error))?;
        let same =
            std::fs::metadata(&name).is_ok_and(|now| now.ino() == held.ino() && now.dev() == held.dev());
        Ok(same.then_some(Self { _file: file }))
    }
}

/// Starts a broker and waits until it listens.
fn spawn(path: &ControlPath, start: &Start, interrupt: &mut dyn Interrupt) -> Result<()> {
    let until = Instant::now() + START;
    let python = &start.python;
    let mut command = Command::new(python);
    // Neither this environment's modules nor those of a user or of site-packages belong in a daemon.
    command.args(["-I", "-S", "-c", PROGRAM]).arg(&start.package).arg(&path.directory).arg(&path.name);
    command.env_clear().envs(KEPT.iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    command.current_dir("/").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let failed = |why: String| {
        refused(format!("{} could not start it ({why}): make it executable again", python.display()))
    };
    let mut child = command.spawn().map_err(|error| failed(error.to_string()))?;
    let mut stderr = child.stderr.take().expect("it was asked for");
    let end = sys::pidfd(&child);
    let ended = loop {
        match child.try_wait() {
            Ok(Some(status)) => break Ok(status),
            Ok(None) if Instant::now() < until => {}
            Ok(None) => {
                break Err(refused("it was not up after 10 seconds: the machine is too busy".to_owned()));
            }
            Err(error) => break Err(failed(error.to_string())),
        }
        let waited = match &end {
            Some(end) => wait(end, PollFlags::IN, until, interrupt).map(drop),
            None => interrupt.check().inspect(|()| std::thread::sleep(TICK / 20)),
        };
        if let Err(interrupted) = waited {
            break Err(interrupted);
        }
    };
    let status = match ended {
        Ok(status) => status,
        Err(error) => {
            let _ = child.kill();
            let _ = child.wait();
            return Err(error);
        }
    };
    if status.success() {
        return Ok(());
    }
    let mut text = Vec::new();
    sys::tune_pipe(&stderr).map_err(|error| failed(error.to_string()))?;
    let _ = io::copy(&mut (&mut stderr).take(64 << 10), &mut text); // it ended, or nothing is there
    Err(refused(format!("its start failed ({}): {}", status, said(&text))))
}
