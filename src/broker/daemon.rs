//! The broker process: it listens, serves, and ends.

use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener as StdListener;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::{Resource, Rlimit};
use tokio::net::{UnixListener, UnixStream};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::LocalSet;

use super::connect::Lock;
use super::control_path::ControlPath;
use super::log::Log;
use super::server::{Broker, Shared};
use crate::sys;
use crate::wire::frame::Frames;
use crate::wire::message::{AgentStatus, Status};

/// Between two looks at what time has brought.
const TICK: Duration = Duration::from_millis(250);
/// Without agents and clients that want some the broker stays so long.
const LINGER: Duration = Duration::from_secs(5);
/// A client has to greet within this.
const GREETING: Duration = Duration::from_secs(10);
/// A client that leaves so much unread is not listened to.
const MOST_UNREAD: usize = 8 << 20;
/// Connections that may wait to be accepted: all workers of a large play at once.
const BACKLOG: i32 = 4096;

/// Serves until nobody needs it; `listening` is called once clients can connect.
pub fn serve(path: &ControlPath, log: &Path, listening: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    // A task that panics would leave its client waiting; the end of the process is one that everybody sees.
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(70);
    }));
    let log = Log::open(log);
    let nofile = rustix::process::getrlimit(Resource::Nofile);
    let raised = Rlimit { current: nofile.maximum, ..nofile };
    let most = match rustix::process::setrlimit(Resource::Nofile, raised) {
        Ok(()) => raised.current,
        Err(_) => nofile.current,
    };
    // Three pipes and a pidfd each, and what is opened while one starts; the rest is for clients.
    let budget =
        most.map_or(usize::MAX, |most| usize::try_from(most.saturating_sub(128) / 6).unwrap_or(1)).max(1);
    let listener = Listener::bind(path)?;
    listening()?;
    let salt = sys::nonce()? + &sys::nonce()?;
    log.say(&format!("started, version {}", env!("CARGO_PKG_VERSION")));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let broker = Broker::new(salt, log, nofile, budget);
    LocalSet::new().block_on(&runtime, run(&broker, listener))?;
    broker.borrow().log.say("ended");
    Ok(())
}

async fn run(broker: &Shared, listener: Listener<StdListener>) -> io::Result<()> {
    let mut tick = tokio::time::interval(TICK);
    let mut listener = Some(listener.listen()?);
    let mut terminated = signal(SignalKind::terminate())?;
    let stopped = broker.borrow().stopped.clone();
    loop {
        if broker.borrow().stopping {
            listener = listener.and_then(Listener::close);
            if listener.is_none() {
                broker.borrow_mut().closed();
            }
        }
        tokio::select! {
            accepted = accept(listener.as_ref()) => match accepted {
                Ok(stream) if ours(&stream) => {
                    let (number, poke) = broker.borrow_mut().client();
                    let broker = broker.clone();
                    tokio::task::spawn_local(async move {
                        let result = serve_client(&broker, number, &poke, &stream).await;
                        let mut broker = broker.borrow_mut();
                        if let Err(why) = result {
                            broker.log.say(&format!("a client was closed: {why}"));
                        }
                        broker.client_closed(number);
                    });
                }
                Ok(_) => broker.borrow().log.say("a connection of another user was closed"),
                Err(_) => tokio::time::sleep(TICK).await, // out of descriptors
            },
            () = stopped.notified() => {}
            _ = terminated.recv() => broker.borrow_mut().stop(),
            _ = tick.tick() => {
                let now = Instant::now();
                let mut state = broker.borrow_mut();
                state.tick(now);
                let opening = !state.stopping && !state.openings.open.is_empty();
                let working = opening || !state.processes.is_empty();
                let wanted = !state.stopping && state.clients.values().any(|client| client.needs);
                if working || wanted {
                    state.needed = now;
                }
                let answered = state.clients.values().all(|client| client.outbox.is_empty());
                let linger = if state.stopping && answered { TICK } else { LINGER };
                let over = now.duration_since(state.needed) >= linger;
                if over {
                    listener = listener.and_then(Listener::close);
                }
                if over && listener.is_none() {
                    return Ok(());
                }
            }
        }
    }
}

async fn accept(listener: Option<&Listener<UnixListener>>) -> io::Result<UnixStream> {
    match listener {
        Some(listener) => listener.socket.accept().await.map(|(stream, _)| stream),
        None => std::future::pending().await,
    }
}

fn ours(stream: &UnixStream) -> bool {
    stream.peer_cred().is_ok_and(|peer| peer.uid() == rustix::process::geteuid().as_raw())
}

/// Moves frames between a client and the broker until one of them closes.
async fn serve_client(
    broker: &Shared,
    number: u64,
    poke: &tokio::sync::Notify,
    stream: &UnixStream,
) -> Result<(), String> {
    let mut frames = Frames::default();
    let greeting = tokio::time::sleep(GREETING);
    tokio::pin!(greeting);
    loop {
        let (write, read, greeted) = {
            let mut broker = broker.borrow_mut();
            let Some(client) = broker.clients.get_mut(&number) else { return Ok(()) };
            let queued = client.outbox.queued();
            (!client.outbox.is_empty(), queued < MOST_UNREAD, client.play.is_some())
        };
        tokio::select! {
            () = poke.notified() => {}
            ready = stream.writable(), if write => {
                ready.map_err(|error| error.to_string())?;
                let mut broker = broker.borrow_mut();
                let Some(client) = broker.clients.get_mut(&number) else { return Ok(()) };
                match stream.try_write(client.outbox.piece()) {
                    Ok(count) => {
                        client.outbox.wrote(count);
                        broker.client_took(number);
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(()), // it left
                }
            }
            ready = stream.readable(), if read => {
                ready.map_err(|error| error.to_string())?;
                let mut broker = broker.borrow_mut();
                let mut buffer = std::mem::take(&mut broker.buffer);
                let result = stream.try_read(&mut buffer);
                if let Ok(count) = result {
                    frames.push(&buffer[..count]);
                }
                broker.buffer = buffer;
                match result {
                    Ok(0) => return Ok(()),
                    Ok(_) => {
                        while let Some(frame) = frames.next_frame().map_err(|error| error.to_string())? {
                            broker.client_frame(number, frame)?;
                        }
                    }
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                    Err(_) => return Ok(()),
                }
            }
            () = &mut greeting, if !greeted => return Err("it did not greet".to_owned()),
        }
        tokio::task::yield_now().await;
    }
}

/// The socket, under its name as long as this lives.
#[derive(Debug)]
struct Listener<Socket> {
    socket: Socket,
    path: ControlPath,
    inode: (u64, u64),
}

impl Listener<StdListener> {
    /// Listens under another name and then renames it: whoever finds the socket can connect.
    fn bind(path: &ControlPath) -> io::Result<Self> {
        let ours = path.directory.join(format!("t{}", std::process::id()));
        let _ = std::fs::remove_file(&ours); // of a process that had this number before
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
        rustix::net::bind(&socket, &SocketAddrUnix::new(&ours)?)?;
        let ready = || {
            std::fs::set_permissions(&ours, PermissionsExt::from_mode(0o600))?;
            rustix::net::listen(&socket, BACKLOG)?;
            let found = std::fs::symlink_metadata(&ours)?;
            std::fs::rename(&ours, path.socket())?;
            Ok((found.dev(), found.ino()))
        };
        let inode = ready().inspect_err(|_: &io::Error| drop(std::fs::remove_file(&ours)))?;
        Ok(Self { socket: socket.into(), path: path.clone(), inode })
    }

    fn listen(self) -> io::Result<Listener<UnixListener>> {
        let Self { socket, path, inode } = self;
        Ok(Listener { socket: UnixListener::from_std(socket)?, path, inode })
    }
}

impl Listener<UnixListener> {
    /// Takes the name back, unless somebody is just starting a broker: then gives itself back. Who has connected and was not accepted sees
    /// the connection close before any HELLO, and tries again.
    fn close(self) -> Option<Self> {
        let Ok(lock) = Lock::take(&self.path) else { return None };
        let lock = lock?;
        let found = std::fs::symlink_metadata(self.path.socket());
        if found.is_ok_and(|found| (found.dev(), found.ino()) == self.inode) {
            let _ = std::fs::remove_file(self.path.socket());
            let _ = std::fs::remove_file(self.path.lock());
            let _ = std::fs::remove_dir(&self.path.directory); // unless another broker lives there
        }
        drop((self.socket, lock));
        None
    }
}

impl Broker {
    /// What there is, for people and tests.
    pub(super) fn status(&self) -> Status {
        let now = Instant::now();
        let seconds = |since: Instant| now.duration_since(since).as_secs_f64();
        let pid = |number: u32| self.processes.get(&number).map_or(0, |process| process.pid);
        let kept = self.agents.iter().map(|(number, agent)| {
            let running = agent.running(now);
            AgentStatus {
                label: agent.acquire.label.clone(),
                serves: agent.acquire.serves.clone(),
                state: if agent.retiring { "retiring" } else { "ready" }.to_owned(),
                pid: agent.adopt.hello.pid,
                python: agent.adopt.hello.python.clone(),
                age: seconds(agent.since),
                idle: if running == 0 { seconds(agent.used) } else { 0.0 },
                running: u32::try_from(running).unwrap_or(u32::MAX),
                requests: agent.total,
                client_pid: pid(*number),
            }
        });
        let opening = self.openings.open.iter().map(|opening| AgentStatus {
            label: opening.acquire.label.clone(),
            serves: opening.acquire.serves.clone(),
            state: "opening".to_owned(),
            pid: 0,
            python: String::new(),
            age: seconds(opening.since),
            idle: 0.0,
            running: 0,
            requests: 0,
            client_pid: opening.process.map_or(0, pid),
        });
        let mut agents: Vec<_> = kept.chain(opening).collect();
        agents.sort_by(|one, other| (&one.label, &one.serves).cmp(&(&other.label, &other.serves)));
        Status { pid: std::process::id(), age: seconds(self.started), rss_bytes: rss_bytes(), agents }
    }
}

fn rss_bytes() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages: u64 = statm.split(' ').nth(1).and_then(|pages| pages.parse().ok()).unwrap_or(0);
    pages * rustix::param::page_size() as u64
}
