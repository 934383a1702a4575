//! `put_file` by one exec, verified in band.

use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::direct::{Happened, Running};
use super::script::Script;
use super::sum::{Sum, SumKind};
use super::{REPLACED, Session, Transferred, stall_limit};
use crate::error::{Error, Result, local, said, shown};
use crate::sys;
use crate::transport::Interrupt;
use crate::transport::cli::{ExecStream, Input};

/// How often the progress of the engine's client is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Bytes that are read and sent at a time.
const CHUNK: usize = 256 << 10;

/// Smaller files are summed before they are sent, which every container can do with.
const SUMMED_BEFORE: u64 = 1 << 20;

/// [`Session::put_file`].
///
/// The sum of a large file is taken while it is sent, and follows it. A container that cannot take that says so before it reads
/// anything, and is sent the sum first.
pub(super) fn put_file(
    session: &Session,
    path: &Path,
    remote: &[u8],
    interrupt: &mut dyn Interrupt,
) -> Result<Transferred> {
    let mut file = open(path)?;
    let length = local(path, file.metadata())?.len();
    if length > SUMMED_BEFORE {
        let feed = Feed::new(&file, path, length, Some(Sum::new(session.sums_by)))?;
        if let Some(transferred) = send(session, feed, "", remote, interrupt)? {
            return Ok(transferred);
        }
    }
    let sum = sum_of(&mut file, path, session.sums_by, interrupt)?;
    let feed = Feed::new(&file, path, sum.length(), None)?;
    let transferred = send(session, feed, &sum.finish(), remote, interrupt)?;
    transferred.ok_or_else(|| failed(session.target(), remote, "failed: it has the sum and asks for it"))
}

/// Sends the file; `sum` is empty when it follows. `None`: the container must have it first.
fn send(
    session: &Session,
    mut feed: Feed<'_>,
    sum: &str,
    remote: &[u8],
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Transferred>> {
    let length = feed.length;
    let nonce = sys::nonce().map_err(|source| Error::Stream { target: session.target(), source })?;
    let script = Script::put(&nonce, &session.instance, remote, session.sums_by, length, sum);
    let mut running = Running::spawn(session, script, Input::Feed)?;
    let (mut seen, mut give_up) = (0, Instant::now() + stall_limit(length));
    loop {
        match running.next(session, Some(Instant::now() + LOOK), interrupt)? {
            Happened::Started | Happened::Output => {}
            Happened::Drained => feed.next(&mut running.stream)?,
            Happened::Deadline => {
                let written = running.stream.written();
                if written != seen {
                    (seen, give_up) = (written, Instant::now() + stall_limit(length));
                } else if Instant::now() > give_up {
                    running.kill(session);
                    return Err(session.stalled(remote, length));
                }
            }
            Happened::Ended(code) => {
                running.without_mark(session, code, interrupt)?;
                return Err(failed(session.target(), remote, "failed: the engine's client ended early"));
            }
        }
        if let Some((_, _, text)) = running.script.find(&running.stdout, b"", 0) {
            let text = text.into_owned();
            running.finish(interrupt)?;
            let note = || format!("{}: written {text}", shown(remote));
            let whole = match text.as_str() {
                "unsummed" => Transferred::Unsummed,
                "first" => return Ok(None),
                "replaced" => return Err(failed(session.target(), remote, REPLACED)),
                "ok" if session.sums_by == SumKind::Length => Transferred::by_length(remote),
                "ok" => Transferred::Whole(None),
                _ if text.starts_with("ok, ") || text.starts_with("in place: ") => {
                    Transferred::Whole(Some(note()))
                }
                // What the container says of a file without its sum is that it is incomplete: here is known why.
                _ if feed.changed => {
                    let kind = if text.starts_with("broken: ") { "broken" } else { "failed" };
                    let text = format!("{kind}: the local file changed while it was sent; try again");
                    return Err(failed(session.target(), remote, &text));
                }
                _ if text.starts_with("incomplete: ") => {
                    Transferred::Lost(failed(session.target(), remote, &text))
                }
                _ => return Err(failed(session.target(), remote, &text)),
            };
            return Ok(Some(whole));
        }
    }
}

/// The local file as it is sent.
struct Feed<'f> {
    file: &'f File,
    path: &'f Path,
    /// So many bytes are sent, whatever becomes of the file.
    length: u64,
    started: Metadata,
    sent: u64,
    buffer: Vec<u8>,
    /// Over what was sent; `None` once it is sent itself, and when the container knows it.
    sum: Option<Sum>,
    /// It is another file than at the start: the sum was not sent, and the container cannot take it for whole.
    changed: bool,
}

impl<'f> Feed<'f> {
    fn new(file: &'f File, path: &'f Path, length: u64, sum: Option<Sum>) -> Result<Self> {
        let started = local(path, file.metadata())?;
        let buffer = vec![0; if sum.is_some() { CHUNK } else { 0 }];
        Ok(Self { file, path, length, started, sent: 0, buffer, sum, changed: false })
    }

    /// Sends what comes next, and ends the stream after it.
    fn next(&mut self, stream: &mut ExecStream<'f>) -> Result<()> {
        if self.sent < self.length {
            let left = usize::try_from(self.length - self.sent).unwrap_or(usize::MAX);
            let mut count = left.min(CHUNK);
            if let Some(sum) = &mut self.sum {
                count = local(self.path, self.file.read_at(&mut self.buffer[..count], self.sent))?;
                sum.update(&self.buffer[..count]);
            }
            if count > 0 {
                stream.send_from(self.file, self.sent, count);
                self.sent += count as u64;
                return Ok(());
            }
        }
        if let Some(sum) = self.sum.take() {
            let now = local(self.path, self.file.metadata())?;
            self.changed = now.len() != self.started.len()
                || (now.mtime(), now.mtime_nsec()) != (self.started.mtime(), self.started.mtime_nsec());
            if !self.changed {
                stream.send(sum.finish().into_bytes());
                return Ok(());
            }
        }
        stream.finish_input();
        Ok(())
    }
}

pub(super) fn open(path: &Path) -> Result<File> {
    let file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::LocalMissing { path: path.to_owned() });
        }
        opened => local(path, opened)?,
    };
    if local(path, file.metadata())?.is_file() {
        return Ok(file);
    }
    let source = std::io::Error::other("it is not a regular file");
    Err(Error::Local { path: path.to_owned(), source })
}

fn sum_of(file: &mut File, path: &Path, kind: SumKind, interrupt: &mut dyn Interrupt) -> Result<Sum> {
    let mut sum = Sum::new(kind);
    let mut buffer = vec![0; 1 << 20];
    let mut asked = Instant::now();
    loop {
        let count = local(path, file.read(&mut buffer))?;
        if count == 0 {
            break;
        }
        sum.update(&buffer[..count]);
        if asked.elapsed() > Duration::from_millis(100) {
            interrupt.check()?;
            asked = Instant::now();
        }
    }
    Ok(sum)
}

pub(super) fn failed(target: String, remote: &[u8], text: &str) -> Error {
    let path = shown(remote);
    let (kind, reason) = text.split_once(": ").unwrap_or(("", text));
    match kind {
        "broken" => Error::PutInPlace { target, path, said: said(reason.as_bytes()) },
        "failed" | "incomplete" => Error::Put { target, path, said: said(reason.as_bytes()) },
        _ => Error::Put { target, path, said: said(text.as_bytes()) },
    }
}
