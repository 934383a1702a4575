//! A worker's connection to its broker, after both HELLOs: frames out and in.
//!
//! The caller is a forked Ansible worker: no thread, no runtime, and no wait above 100 ms without a question to [`Interrupt`].

use std::borrow::Cow;
use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::connect::Connected;
use crate::error::Result;
use crate::transport::Interrupt;
use crate::wire::frame::{self, Frame, Frames, Kind};
use crate::wire::{CHUNK, WINDOW};

/// The longest time between two questions to [`Interrupt`].
const TICK: Duration = Duration::from_millis(100);

/// A broker that is not heard for so long while something is expected of it is asked whether it is there.
const SILENCE: Duration = Duration::from_secs(15);

/// And after so long in all it is given up: stopped, or hung.
const GIVEN_UP: Duration = Duration::from_secs(45);

/// Bytes that wait here for the socket to take them, before more of an [`Upload`] is added.
const BACKLOG: usize = 4 * CHUNK;

/// The most that is kept of ids other than the one that is read.
const MOST_ASIDE: usize = 1 << 20;

/// Used bytes that are worth a CREDIT of their own.
const CREDIT: usize = WINDOW / 4;

/// What a wait ended with.
#[derive(Debug)]
pub enum Event {
    /// A frame of the id that was asked for; never CREDIT.
    Frame(Frame),
    /// The deadline passed.
    Deadline,
    /// The connection is gone; why, in words.
    Closed(String),
}

/// DATA of one id, as far as its credit goes, and END.
#[derive(Debug)]
pub struct Upload<'a> {
    id: u32,
    parts: VecDeque<Cow<'a, [u8]>>,
    taken: usize,
    credit: Option<usize>,
    finished: bool,
    ended: bool,
}

impl<'a> Upload<'a> {
    /// For a request: [`WINDOW`] bytes before any CREDIT.
    pub fn for_request(id: u32) -> Self {
        Self { credit: Some(WINDOW), ..Self::for_opening(id) }
    }

    /// For the stdin of a process that is being opened: without credit.
    pub fn for_opening(id: u32) -> Self {
        Self { id, parts: VecDeque::new(), taken: 0, credit: None, finished: false, ended: false }
    }

    /// Adds bytes.
    pub fn send(&mut self, bytes: impl Into<Cow<'a, [u8]>>) {
        let bytes = bytes.into();
        if !bytes.is_empty() {
            self.parts.push_back(bytes);
        }
    }

    /// Nothing will be added.
    pub fn finish(&mut self) {
        self.finished = true;
    }

    /// Moves what may go into `out`.
    fn fill(&mut self, out: &mut Vec<u8>, held: usize) {
        while out.len() - held < BACKLOG && !self.ended {
            let Some(part) = self.parts.front() else {
                if self.finished {
                    frame::write(out, Kind::End, self.id, &[]);
                    self.ended = true;
                }
                return;
            };
            let rest = &part[self.taken..];
            let count = rest.len().min(CHUNK).min(self.credit.unwrap_or(CHUNK));
            if count == 0 {
                return;
            }
            frame::write(out, Kind::Data, self.id, &rest[..count]);
            self.credit = self.credit.map(|credit| credit - count);
            self.taken += count;
            if self.taken == part.len() {
                self.parts.pop_front();
                self.taken = 0;
            }
        }
    }
}

/// The connection. Closing it cancels what runs, and ends an opening that was not adopted.
#[derive(Debug)]
pub struct Client {
    stream: UnixStream,
    frames: Frames,
    salt: String,
    out: Vec<u8>,
    written: usize,
    sent: u64,
    writable: bool,
    last_id: u32,
    owed: usize,
    checked: Instant,
    /// Time that was waited since the broker was heard. It is not read from a clock: where both were frozen for a while (a container,
    /// a virtual machine), nobody was silent.
    silent: Duration,
    pinged: bool,
    buffer: Vec<u8>,
    /// Ids whose frames are kept while another's are read, and those frames.
    kept: Vec<u32>,
    aside: VecDeque<Frame>,
}

impl Client {
    /// A client on a connection.
    pub fn new(connected: Connected) -> Self {
        Self {
            stream: connected.stream,
            frames: connected.frames,
            salt: connected.hello.salt,
            out: Vec::new(),
            written: 0,
            sent: 0,
            writable: true,
            last_id: 0,
            owed: 0,
            checked: Instant::now(),
            silent: Duration::ZERO,
            pinged: false,
            buffer: vec![0; CHUNK + frame::HEADER],
            kept: Vec::new(),
            aside: VecDeque::new(),
        }
    }

    /// The key under which this broker's clients hash what opens a session.
    pub fn salt(&self) -> &str {
        &self.salt
    }

    /// An id that was never used on this connection.
    pub fn new_id(&mut self) -> u32 {
        self.last_id += 1;
        self.owed = 0;
        self.last_id
    }

    /// What comes for this id waits until it is asked for, also while another's frames are read; not above a megabyte.
    pub fn keep(&mut self, id: u32) {
        self.kept.push(id);
    }

    /// What comes for this id while another's frames are read is over.
    pub fn forget(&mut self, id: u32) {
        self.kept.retain(|kept| *kept != id);
        self.aside.retain(|frame| frame.id != id);
    }

    fn put_aside(&mut self, frame: Frame) {
        let bytes: usize = self.aside.iter().map(|frame| frame.payload.len()).sum();
        if self.kept.contains(&frame.id) && bytes + frame.payload.len() <= MOST_ASIDE {
            self.aside.push_back(frame);
        }
    }

    fn take_aside(&mut self, id: u32) -> Option<Frame> {
        let index = self.aside.iter().position(|frame| frame.id == id)?;
        self.aside.remove(index)
    }

    /// Queues a frame.
    pub fn send(&mut self, frame: &Frame) {
        if self.writable {
            frame.write_to(&mut self.out);
        }
    }

    /// Writes what the socket takes at once.
    pub fn flush(&mut self) {
        self.write();
    }

    /// The same of an upload.
    pub fn flush_upload(&mut self, upload: &mut Upload<'_>) {
        upload.fill(&mut self.out, self.written);
        self.write();
    }

    fn is_flushed(&self) -> bool {
        self.written == self.out.len()
    }

    /// Bytes that were ever queued.
    pub fn queued(&self) -> u64 {
        self.sent + (self.out.len() - self.written) as u64
    }

    /// Bytes that the broker may have seen.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Bytes of a request's output were used: gives its sender as many more.
    pub fn used(&mut self, id: u32, bytes: usize) {
        self.owed += bytes;
        if self.owed >= CREDIT {
            self.send(&Frame::credit(id, u32::try_from(self.owed).unwrap_or(u32::MAX)));
            self.owed = 0;
        }
    }

    /// Waits for the next frame of `id`, at most until `deadline`, and not for a broker that does not answer; writes meanwhile. What
    /// still comes of other ids is over, but for those that are kept.
    pub fn next(
        &mut self,
        id: u32,
        mut upload: Option<&mut Upload<'_>>,
        deadline: Option<Instant>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Event> {
        loop {
            if self.checked.elapsed() >= TICK {
                interrupt.check()?;
                self.checked = Instant::now();
            }
            if let Some(frame) = self.take_aside(id) {
                return Ok(Event::Frame(frame));
            }
            while let Some(frame) = match self.frames.next_frame() {
                Ok(frame) => frame,
                Err(malformed) => return Ok(Event::Closed(format!("the broker sent {malformed}"))),
            } {
                if frame.id != id {
                    self.put_aside(frame);
                    continue;
                }
                if frame.kind != Kind::Credit {
                    return Ok(Event::Frame(frame));
                }
                let given = frame.credited().and_then(|given| usize::try_from(given).ok()).unwrap_or(0);
                if let Some(credit) = upload.as_mut().and_then(|upload| upload.credit.as_mut()) {
                    *credit = credit.saturating_add(given).min(WINDOW);
                }
            }
            if let Some(upload) = upload.as_mut()
                && self.writable
            {
                upload.fill(&mut self.out, self.written);
            }
            self.write();
            match self.stream.read(&mut self.buffer) {
                Ok(0) => return Ok(Event::Closed("the broker ended".to_owned())),
                Ok(count) => {
                    self.frames.push(&self.buffer[..count]);
                    self.silent = Duration::ZERO;
                    self.pinged = false;
                    continue;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => continue,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Ok(Event::Closed(format!("talking to the broker failed: {error}"))),
            }
            let now = Instant::now();
            if deadline.is_some_and(|deadline| deadline <= now) {
                return Ok(Event::Deadline);
            }
            if self.silent >= GIVEN_UP {
                let seconds = GIVEN_UP.as_secs();
                return Ok(Event::Closed(format!("the broker has not answered for {seconds} seconds")));
            }
            if self.silent >= SILENCE && !std::mem::replace(&mut self.pinged, true) {
                self.send(&Frame::empty(Kind::Ping, 0));
                self.write();
            }
            let wait = deadline.map_or(TICK, |deadline| TICK.min(deadline - now));
            if self.wait(wait) {
                interrupt.check()?;
                self.checked = Instant::now();
            }
        }
    }

    /// Writes what the socket takes now.
    fn write(&mut self) {
        while self.written < self.out.len() {
            match self.stream.write(&self.out[self.written..]) {
                Ok(count) => {
                    self.written += count;
                    self.sent += count as u64;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                // What the broker sent before it went can still be read.
                Err(_) => {
                    self.writable = false;
                    self.written = self.out.len();
                }
            }
        }
        if self.written == self.out.len() {
            self.out.clear();
            self.written = 0;
        } else if self.written > BACKLOG {
            self.out.drain(..self.written);
            self.written = 0;
        }
    }

    /// Waits for the socket; true when a signal arrived instead.
    fn wait(&mut self, timeout: Duration) -> bool {
        let since = Instant::now();
        let wanted = if self.is_flushed() { PollFlags::IN } else { PollFlags::IN | PollFlags::OUT };
        let most = Timespec::try_from(timeout).expect("a tick is a small number");
        let polled = poll(&mut [PollFd::new(&self.stream, wanted)], Some(&most));
        self.silent += since.elapsed().min(timeout);
        polled == Err(rustix::io::Errno::INTR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Error;
    use crate::transport::Uninterrupted;
    use crate::wire::message::BrokerHello;

    fn pair() -> (Client, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        ours.set_nonblocking(true).unwrap();
        let hello = BrokerHello { version: 1, pid: 1, salt: "s".to_owned() };
        (Client::new(Connected { stream: ours, hello, frames: Frames::default() }), theirs)
    }

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(50)
    }

    /// What the broker gets, in as many calls as it takes.
    struct Got(UnixStream, Frames);

    impl Got {
        fn by(broker: UnixStream) -> Self {
            broker.set_nonblocking(true).unwrap();
            Self(broker, Frames::default())
        }

        fn frames(&mut self) -> Vec<Frame> {
            let mut buffer = vec![0; 1 << 20];
            while let Ok(count @ 1..) = self.0.read(&mut buffer) {
                self.1.push(&buffer[..count]);
            }
            std::iter::from_fn(|| self.1.next_frame().unwrap()).collect()
        }
    }

    #[test]
    fn an_upload_keeps_to_its_credit() {
        let (mut client, broker) = pair();
        let mut broker = Got::by(broker);
        let id = client.new_id();
        let mut upload = Upload::for_request(id);
        upload.send(vec![7; WINDOW + 100]);
        upload.finish();
        let sent = |client: &mut Client, upload: &mut Upload<'_>, broker: &mut Got| {
            let mut all = Vec::new();
            for _ in 0..9 {
                let event = client.next(id, Some(&mut *upload), Some(soon()), &mut Uninterrupted).unwrap();
                assert!(matches!(event, Event::Deadline));
                all.extend(broker.frames());
            }
            all
        };
        let first = sent(&mut client, &mut upload, &mut broker);
        assert_eq!(first.iter().map(|frame| frame.payload.len()).sum::<usize>(), WINDOW);
        assert!(first.iter().all(|frame| frame.kind == Kind::Data && frame.payload.len() <= CHUNK));
        let mut bytes = Vec::new();
        Frame::credit(id, 200).write_to(&mut bytes);
        broker.0.write_all(&bytes).unwrap();
        let rest = sent(&mut client, &mut upload, &mut broker);
        let rest: Vec<_> = rest.iter().map(|frame| (frame.kind, frame.payload.len())).collect();
        assert_eq!(rest, [(Kind::Data, 100), (Kind::End, 0)]);
    }

    #[test]
    fn what_was_used_is_given_back_in_large_pieces() {
        let (mut client, broker) = pair();
        let id = client.new_id();
        for _ in 0..CREDIT / 1024 {
            client.used(id, 1024);
        }
        client.next(id, None, Some(soon()), &mut Uninterrupted).unwrap();
        assert_eq!(Got::by(broker).frames(), [Frame::credit(id, u32::try_from(CREDIT).unwrap())]);
    }

    #[test]
    fn a_silent_broker_is_asked_once_and_then_given_up() {
        let (mut client, broker) = pair();
        let mut broker = Got::by(broker);
        let id = client.new_id();
        let next = |client: &mut Client| client.next(id, None, Some(soon()), &mut Uninterrupted).unwrap();
        assert!(matches!(next(&mut client), Event::Deadline) && client.silent > Duration::ZERO);
        assert_eq!(broker.frames(), []);
        client.silent = SILENCE;
        assert!(matches!(next(&mut client), Event::Deadline));
        assert!(matches!(next(&mut client), Event::Deadline));
        assert_eq!(broker.frames(), [Frame::empty(Kind::Ping, 0)]);
        client.silent = GIVEN_UP;
        let mut bytes = Vec::new();
        Frame::empty(Kind::Pong, 0).write_to(&mut bytes);
        broker.0.write_all(&bytes).unwrap();
        assert!(matches!(next(&mut client), Event::Deadline) && client.silent < Duration::from_secs(1));
        client.silent = SILENCE;
        assert!(matches!(next(&mut client), Event::Deadline));
        assert_eq!(broker.frames(), [Frame::empty(Kind::Ping, 0)]);
        client.silent = GIVEN_UP;
        let said = "the broker has not answered for 45 seconds";
        assert!(matches!(next(&mut client), Event::Closed(why) if why == said));
    }

    #[test]
    fn what_came_before_the_end_is_delivered_and_other_ids_are_not() {
        let (mut client, mut broker) = pair();
        let id = client.new_id();
        let mut bytes = Vec::new();
        Frame::empty(Kind::Exit, id + 9).write_to(&mut bytes);
        Frame::empty(Kind::Exit, id).write_to(&mut bytes);
        broker.write_all(&bytes).unwrap();
        drop(broker);
        let next = |client: &mut Client| client.next(id, None, None, &mut Uninterrupted).unwrap();
        assert!(matches!(next(&mut client), Event::Frame(frame) if frame.kind == Kind::Exit));
        assert!(matches!(next(&mut client), Event::Closed(said) if said == "the broker ended"));
    }

    #[test]
    fn what_comes_of_an_id_that_is_kept_waits_within_a_bound() {
        let (mut client, mut broker) = pair();
        let (kept, id) = (client.new_id(), client.new_id());
        client.keep(kept);
        let said = |id, length: usize| Frame { kind: Kind::Stdout, id, payload: vec![b'x'; length] };
        let mut lengths = |client: &mut Client, frames: &[Frame]| {
            for frame in frames {
                let mut bytes = Vec::new();
                frame.write_to(&mut bytes);
                broker.write_all(&bytes).unwrap();
                client.next(id, None, Some(soon()), &mut Uninterrupted).unwrap();
            }
            let mut lengths = Vec::new();
            while let Event::Frame(frame) = client.next(kept, None, Some(soon()), &mut Uninterrupted).unwrap()
            {
                lengths.push(frame.payload.len());
            }
            lengths
        };
        assert_eq!(lengths(&mut client, &[said(kept, 1), said(id, 7), said(kept, 2)]), [1, 2]);
        let pieces: Vec<_> = (0..9).map(|_| said(kept, 150 << 10)).collect();
        assert_eq!(lengths(&mut client, &pieces).len(), 6);
        client.forget(kept);
        assert!(lengths(&mut client, &[said(kept, 1)]).is_empty());
    }

    #[test]
    fn garbage_is_no_frame_and_a_wait_can_be_interrupted() {
        struct Now;
        impl Interrupt for Now {
            fn check(&mut self) -> Result<()> {
                Err(Error::Interrupted)
            }
        }
        let (mut client, mut broker) = pair();
        let started = Instant::now();
        assert!(matches!(client.next(1, None, None, &mut Now), Err(Error::Interrupted)));
        assert!(started.elapsed() < Duration::from_secs(1));
        broker.write_all(&[255; 40]).unwrap();
        let event = client.next(1, None, None, &mut Uninterrupted).unwrap();
        assert!(
            matches!(event, Event::Closed(said) if said == "the broker sent a frame of the unknown kind 255")
        );
    }
}
