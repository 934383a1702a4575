//! `fetch_file` by one exec, verified in band.

use std::fs::{File, Metadata, Permissions};
use std::io::{Error as IoError, ErrorKind, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Instant;

use super::direct::{Happened, Running};
use super::script::Script;
use super::sum::{Sum, SumKind};
use super::{REPLACED, Session, Transferred, stall_limit};
use crate::error::{Error, Result, local, said, shown};
use crate::sys;
use crate::transport::Interrupt;
use crate::transport::cli::Input;

/// Bytes that are summed and written at a time: what arrives in smaller pieces costs a file system more.
const CHUNK: usize = 256 << 10;

/// [`Session::fetch_file`].
///
/// A large file is summed while it is sent. Should it grow under that, it is fetched once more, summed first.
pub(super) fn fetch_file(
    session: &Session,
    remote: &[u8],
    path: &Path,
    interrupt: &mut dyn Interrupt,
) -> Result<Transferred> {
    if let Some(transferred) = receive(session, remote, path, false, interrupt)? {
        return Ok(transferred);
    }
    let transferred = receive(session, remote, path, true, interrupt)?;
    transferred.ok_or_else(|| failed(session, remote, CHANGED))
}

const CHANGED: &str = "it changed while it was read; try again";

fn failed(session: &Session, remote: &[u8], said: &str) -> Error {
    Error::Fetch { target: session.target(), path: shown(remote), said: said.to_owned() }
}

/// Receives the file. `None`: it was not the same when it was summed.
fn receive(
    session: &Session,
    remote: &[u8],
    path: &Path,
    sum_first: bool,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<Transferred>> {
    let nonce = sys::nonce().map_err(|source| Error::Stream { target: session.target(), source })?;
    let mut destination = Destination::create(path, &nonce)?;
    let script = Script::fetch(&nonce, &session.instance, remote, session.sums_by, sum_first);
    let mut running = Running::spawn(session, script, Input::Nothing)?;
    let mut announced: Option<Announced> = None;
    let mut sum = Sum::new(session.sums_by);
    let mut sum_by: Option<Instant> = None;
    loop {
        let length = announced.as_ref().map(|announced| announced.length).unwrap_or_default();
        let until = sum_by.unwrap_or_else(|| Instant::now() + stall_limit(length));
        let ended = match running.next(session, Some(until), interrupt)? {
            Happened::Started | Happened::Drained => continue,
            Happened::Output => None,
            Happened::Deadline => {
                running.kill(session);
                return Err(session.stalled(remote, length));
            }
            Happened::Ended(code) => Some(code),
        };
        if announced.is_none()
            && let Some((_, end, text)) = running.script.find(&running.stdout, b"", 0)
        {
            if text == "unsummed" {
                return Ok(Some(Transferred::Unsummed));
            }
            if text == "replaced" {
                return Err(failed(session, remote, REPLACED));
            }
            let file = Announced::parse(&text, session, remote)?;
            destination.check_room(file.length)?;
            announced = Some(file);
            running.stdout.drain(..end);
        }
        if let Some(file) = &mut announced {
            if file.sum.is_none()
                && let Some((_, _, text)) = running.script.find(&running.stderr, b"k", 0)
            {
                let summed = Announced::parse(&format!("k{text}"), session, remote)?;
                if summed.length != file.length {
                    // A log that grew before it was summed: as of then it is whole, too, if no byte of that was let go.
                    if sum_by.is_some() || summed.length < sum.length() {
                        return Ok(None);
                    }
                    destination.check_room(summed.length)?;
                }
                *file = summed;
            }
            // Only as many bytes as were summed count: a log that grows meanwhile is whole as of the start.
            let wanted = usize::try_from(file.length - sum.length()).unwrap_or(usize::MAX);
            let count = wanted.min(running.stdout.len());
            if count < wanted.min(CHUNK) && ended.is_none() {
                continue;
            }
            let bytes = &running.stdout[..count];
            sum.update(bytes);
            destination.write(bytes)?;
            running.stdout.clear();
            if count == wanted {
                if let Some(expected) = &file.sum {
                    if *expected != sum.finish() {
                        return Err(failed(session, remote, CHANGED));
                    }
                    destination.keep()?;
                    running.finish(interrupt)?;
                    return Ok(Some(match session.sums_by {
                        SumKind::Length => Transferred::by_length(remote),
                        _ => Transferred::Whole(None),
                    }));
                }
                sum_by.get_or_insert_with(|| Instant::now() + stall_limit(file.length));
            }
        }
        if let Some(code) = ended {
            let error = match running.without_mark(session, code, interrupt) {
                Ok(_) => {
                    failed(session, remote, "it became shorter, or the stream was cut, while it was read")
                }
                Err(Error::OutcomeUnknown { target, said }) => {
                    Error::FetchLost { target, path: shown(remote), said }
                }
                Err(error) => return Err(error),
            };
            return if destination.is_untouched() { Ok(Some(Transferred::Lost(error))) } else { Err(error) };
        }
    }
}

/// What the container says about the file before its bytes, and beside them.
struct Announced {
    length: u64,
    /// `None` while it is being taken.
    sum: Option<String>,
}

impl Announced {
    /// Parses `k SUM LENGTH`, `l LENGTH`, or the letter that says why the container will not read the file.
    fn parse(text: &str, session: &Session, remote: &[u8]) -> Result<Self> {
        let refused = |said: &str| failed(session, remote, said);
        let mut words = text.get(1..).unwrap_or_default().split_whitespace();
        match text.as_bytes().first() {
            Some(kind @ (b'k' | b'l')) => {
                let sum = if *kind == b'k' { words.next().map(str::to_owned) } else { None };
                let length = words.next().and_then(|word| word.parse().ok());
                match length {
                    Some(length) => Ok(Self { length, sum }),
                    None => Err(refused(&format!("the container cannot sum it ({})", said(text.as_bytes())))),
                }
            }
            Some(b'd') => Err(refused("it is a directory")),
            Some(b'x') => Err(refused("it is not a regular file")),
            Some(b'n') => Err(Error::RemoteMissing { target: session.target(), path: shown(remote) }),
            _ => Err(refused(&said(text.get(1..).unwrap_or_default().as_bytes()))),
        }
    }
}

/// The local file: a temporary name beside it, renamed when whole. Dropped before that, the temporary file goes and an
/// older file stays as it was.
pub(super) struct Destination {
    path: PathBuf,
    temporary: Option<PathBuf>,
    file: File,
}

impl Destination {
    pub(super) fn create(path: &Path, nonce: &str) -> Result<Self> {
        // As `open` for writing would: a link is followed, something that is not a regular file is written as it is.
        let path = if path.is_symlink() {
            path.canonicalize().unwrap_or_else(|_| path.to_owned())
        } else {
            path.to_owned()
        };
        let existing = path.metadata().ok();
        if let Some(kind) = existing.as_ref().map(Metadata::file_type) {
            if kind.is_dir() {
                let source = IoError::from(ErrorKind::IsADirectory);
                return Err(Error::Local { path, source });
            }
            if kind.is_fifo() || kind.is_socket() {
                let source = IoError::other("it is a FIFO or a socket");
                return Err(Error::Local { path, source });
            }
            if kind.is_char_device() || kind.is_block_device() {
                let file = local(&path, File::options().write(true).open(&path))?;
                return Ok(Self { path, temporary: None, file });
            }
        }
        let temporary = path.with_file_name(format!(".gangway-{nonce}"));
        let file = local(&path, sys::create_new(&temporary, 0o666))?;
        if let Some(existing) = existing {
            local(
                &path,
                file.set_permissions(Permissions::from_mode(existing.permissions().mode() & 0o7777)),
            )?;
        }
        Ok(Self { path, temporary: Some(temporary), file })
    }

    /// Refuses a length that cannot fit: the container may say anything, and a full disk harms everybody.
    pub(super) fn check_room(&self, length: u64) -> Result<()> {
        let free = local(&self.path, sys::free_bytes(&self.file))?;
        if self.temporary.is_none() || length <= free {
            return Ok(());
        }
        let source = IoError::other(format!("the file has {length} bytes, and there is room for {free}"));
        Err(Error::Local { path: self.path.clone(), source })
    }

    pub(super) fn write(&mut self, bytes: &[u8]) -> Result<()> {
        local(&self.path, self.file.write_all(bytes))
    }

    /// Whether there is still what was there before: a device has taken every byte.
    fn is_untouched(&self) -> bool {
        self.temporary.is_some()
    }

    pub(super) fn keep(&mut self) -> Result<()> {
        if let Some(temporary) = &self.temporary {
            local(&self.path, std::fs::rename(temporary, &self.path))?;
            self.temporary = None;
        }
        Ok(())
    }
}

impl Drop for Destination {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            let _ = std::fs::remove_file(temporary);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_destination_that_is_not_kept_leaves_the_old_file() {
        let dir = std::env::temp_dir().join(format!("gangway-test-{}", sys::nonce().unwrap()));
        std::fs::create_dir(&dir).unwrap();
        let path = dir.join("f");
        std::fs::write(&path, "old").unwrap();
        let mut dropped = Destination::create(&path, "n").unwrap();
        dropped.write(b"new").unwrap();
        drop(dropped);
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        let mut kept = Destination::create(&path, "n").unwrap();
        kept.write(b"new").unwrap();
        kept.keep().unwrap();
        drop(kept);
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 1);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
