//! `put_file` by one exec, verified in band.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek};
use std::path::Path;
use std::time::{Duration, Instant};

use super::direct::{Happened, Running};
use super::script::Script;
use super::sum::{Sum, SumKind};
use super::{REPLACED, Session, Transferred, stall_limit};
use crate::error::{Error, Result, local, said, shown};
use crate::sys;
use crate::transport::Interrupt;
use crate::transport::cli::Input;

/// How often the progress of the engine's client is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// [`Session::put_file`]. The engine's client reads the local file itself: nothing passes through this process.
pub(super) fn put_file(
    session: &Session,
    path: &Path,
    remote: &[u8],
    interrupt: &mut dyn Interrupt,
) -> Result<Transferred> {
    let mut file = open(path)?;
    let sum = sum_of(&mut file, path, session.sums_by, interrupt)?;
    let length = sum.length();
    let nonce = sys::nonce().map_err(|source| Error::Stream { target: session.target(), source })?;
    let script = Script::put(&nonce, &session.instance, remote, session.sums_by, length, &sum.finish());
    // The offset is shared with the client that reads the file: it shows how far that has come.
    let mut progress = local(path, file.try_clone())?;
    let mut running = Running::spawn(session, script, Input::File(file))?;
    let (mut seen, mut give_up) = (0, Instant::now() + stall_limit(length));
    loop {
        match running.next(session, Some(Instant::now() + LOOK), interrupt)? {
            Happened::Started | Happened::Output => {}
            Happened::Deadline => {
                let position = local(path, progress.stream_position())?;
                if position != seen {
                    (seen, give_up) = (position, Instant::now() + stall_limit(length));
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
            return match text.as_str() {
                "unsummed" => Ok(Transferred::Unsummed),
                "replaced" => Err(failed(session.target(), remote, REPLACED)),
                "ok" if session.sums_by == SumKind::Length => Ok(Transferred::by_length(remote)),
                "ok" => Ok(Transferred::Whole(None)),
                _ if text.starts_with("incomplete: ") => {
                    Ok(Transferred::Lost(failed(session.target(), remote, &text)))
                }
                _ if text.starts_with("ok, ") || text.starts_with("in place: ") => {
                    Ok(Transferred::Whole(Some(note())))
                }
                _ => Err(failed(session.target(), remote, &text)),
            };
        }
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

/// Sums the file and goes back to its start. The sum must be known before the first byte is sent: the container renames the
/// file only when it is right, and the end of stdin is all it can wait for.
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
    local(path, file.rewind())?;
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
