//! `put_file` and `fetch_file` by one exec each, verified in band by length and POSIX cksum.

use std::fs::File;
use std::io::{ErrorKind, Read, Seek, Write};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crc_fast::{CrcAlgorithm, Digest};

use super::Session;
use super::direct::{Happened, Running};
use super::script::Script;
use crate::error::{Error, Result, said, shown};
use crate::sys;
use crate::transport::Interrupt;
use crate::transport::cli::Input;

/// A transfer in which nothing moves for this long is given up, plus the time a slow container needs to sum what it has.
const STALL: Duration = Duration::from_secs(60);
/// Bytes a second that even a slow container sums.
const SLOWEST: u64 = 5_000_000;

/// POSIX cksum: a CRC-32 over the bytes and then over their count, least significant byte first.
struct Cksum {
    digest: Digest,
    length: u64,
}

impl Cksum {
    fn new() -> Self {
        Self {
            digest: Digest::new(CrcAlgorithm::Crc32Cksum),
            length: 0,
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        self.digest.update(bytes);
        self.length += bytes.len() as u64;
    }

    fn sum(mut self) -> u32 {
        let count = self.length.to_le_bytes();
        let used = 8 - (self.length.leading_zeros() / 8) as usize;
        self.digest.update(&count[..used]);
        u32::try_from(self.digest.finalize()).expect("a CRC-32 has 32 bits")
    }
}

fn local<T>(path: &Path, result: std::io::Result<T>) -> Result<T> {
    result.map_err(|source| Error::Local {
        path: path.to_owned(),
        source,
    })
}

fn stall_limit(length: u64) -> Duration {
    STALL + Duration::from_secs(length / SLOWEST)
}

/// [`Session::put_file`] by one exec. The engine's client reads the local file itself: nothing passes through this process.
pub(super) fn put_file(
    session: &Session,
    path: &Path,
    remote: &[u8],
    interrupt: &mut dyn Interrupt,
) -> Result<Option<String>> {
    let mut file = match File::open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(Error::LocalMissing {
                path: path.to_owned(),
            });
        }
        opened => local(path, opened)?,
    };
    if !local(path, file.metadata())?.is_file() {
        let source = std::io::Error::other("it is not a regular file");
        return Err(Error::Local {
            path: path.to_owned(),
            source,
        });
    }
    let mut cksum = Cksum::new();
    let mut buffer = vec![0; 1 << 20];
    let mut asked = Instant::now();
    loop {
        let count = local(path, file.read(&mut buffer))?;
        if count == 0 {
            break;
        }
        cksum.update(&buffer[..count]);
        if asked.elapsed() > Duration::from_millis(100) {
            interrupt.check()?;
            asked = Instant::now();
        }
    }
    local(path, file.rewind())?;
    let length = cksum.length;
    let nonce = sys::nonce().map_err(|source| Error::Stream {
        target: session.target(),
        source,
    })?;
    let script = Script::put(&nonce, remote, length, cksum.sum());
    // The offset is shared with the client that reads the file: it shows how far that has come.
    let mut progress = local(path, file.try_clone())?;
    let mut running = Running::spawn(session, script, Input::File(file))?;
    let (mut seen, mut stalled_at) = (0, Instant::now() + stall_limit(length));
    loop {
        match running.next(
            session,
            Some(Instant::now() + Duration::from_millis(500)),
            interrupt,
        )? {
            Happened::Started | Happened::Output => {}
            Happened::Deadline => {
                let position = local(path, progress.stream_position())?;
                if position != seen {
                    (seen, stalled_at) = (position, Instant::now() + stall_limit(length));
                } else if Instant::now() > stalled_at {
                    running.kill(session);
                    return Err(stalled(session, remote, length));
                }
            }
            Happened::Ended(code) => {
                running.without_mark(session, code, interrupt)?;
                return Err(put_failed(
                    session,
                    remote,
                    "failed: the engine's client ended early",
                ));
            }
        }
        for kind in *b"oifb" {
            if let Some((at, end, _)) = running.script.find(&running.stdout, kind, 0) {
                let words = &running.stdout[at + 2 + nonce.len()..end - 1];
                let text = shown(words);
                running.finish(interrupt)?;
                return match kind {
                    b'o' | b'i' => Ok((text != "ok").then(|| {
                        format!("{}: {}", shown(remote), text.trim_start_matches("ok, "))
                    })),
                    _ => Err(put_failed(session, remote, &text)),
                };
            }
        }
    }
}

fn put_failed(session: &Session, remote: &[u8], text: &str) -> Error {
    let (target, path) = (session.target(), shown(remote));
    match text.strip_prefix("broken: ") {
        Some(reason) => Error::PutInPlace {
            target,
            path,
            said: said(reason.as_bytes()),
        },
        None => Error::Put {
            target,
            path,
            said: said(text.trim_start_matches("failed: ").as_bytes()),
        },
    }
}

fn stalled(session: &Session, remote: &[u8], length: u64) -> Error {
    Error::Stalled {
        target: session.target(),
        path: shown(remote),
        seconds: stall_limit(length).as_secs(),
    }
}

/// [`Session::fetch_file`] by one exec.
pub(super) fn fetch_file(
    session: &Session,
    remote: &[u8],
    path: &Path,
    interrupt: &mut dyn Interrupt,
) -> Result<Option<String>> {
    let nonce = sys::nonce().map_err(|source| Error::Stream {
        target: session.target(),
        source,
    })?;
    let mut destination = Destination::create(path, &nonce)?;
    let mut running = Running::spawn(session, Script::fetch(&nonce, remote), Input::Nothing)?;
    let failed = |said: String| Error::Fetch {
        target: session.target(),
        path: shown(remote),
        said,
    };
    let mut announced: Option<Announced> = None;
    let mut cksum = Cksum::new();
    loop {
        let length = announced
            .as_ref()
            .and_then(|announced| announced.length)
            .unwrap_or_default();
        let ended = match running.next(
            session,
            Some(Instant::now() + stall_limit(length)),
            interrupt,
        )? {
            Happened::Started => continue,
            Happened::Output => None,
            Happened::Deadline => {
                running.kill(session);
                return Err(stalled(session, remote, length));
            }
            Happened::Ended(code) => Some(code),
        };
        if announced.is_none()
            && let Some(refused) = refusal(&running, session, remote)
        {
            return Err(refused);
        }
        if announced.is_none()
            && let Some((_, end, text)) = running.script.find(&running.stdout, b'k', 0)
        {
            announced = Some(Announced::parse(&text));
            running.stdout.drain(..end);
        }
        if let Some(announced) = &announced
            && take(&mut running, announced.length, &mut cksum, &mut destination)?
        {
            verify(cksum, announced).map_err(failed)?;
            destination.keep()?;
            running.finish(interrupt)?;
            return Ok(announced.note(remote));
        }
        if let Some(code) = ended {
            running.without_mark(session, code, interrupt)?;
            return Err(failed(
                "the file changed or the stream was cut while it was read".to_owned(),
            ));
        }
    }
}

/// What the container says about the file before its bytes.
struct Announced {
    sum: Option<u32>,
    length: Option<u64>,
}

impl Announced {
    fn parse(text: &str) -> Self {
        let mut words = text.split_whitespace();
        let sum = words.next().and_then(|word| word.parse().ok());
        Self {
            sum,
            length: words.next().and_then(|word| word.parse().ok()),
        }
    }

    fn note(&self, remote: &[u8]) -> Option<String> {
        let by = match (self.sum, self.length) {
            (Some(_), _) => return None,
            (None, Some(_)) => "length",
            (None, None) => "its end mark",
        };
        Some(format!(
            "{}: verified by {by} only, the container has no cksum",
            shown(remote)
        ))
    }
}

/// Why the container will not read the file, if it said so.
fn refusal(running: &Running<'_>, session: &Session, remote: &[u8]) -> Option<Error> {
    let (target, path) = (session.target(), shown(remote));
    let has = |kind| running.script.find(&running.stdout, kind, 0);
    let refused = |said: String| Error::Fetch {
        target: target.clone(),
        path: path.clone(),
        said,
    };
    if has(b'd').is_some() {
        Some(refused("it is a directory".to_owned()))
    } else if has(b'x').is_some() {
        Some(refused("it is not a regular file".to_owned()))
    } else if let Some((_, _, text)) = has(b'p') {
        Some(refused(said(text.as_bytes())))
    } else {
        has(b'n').map(|_| Error::RemoteMissing { target, path })
    }
}

/// Moves the file's bytes from the stream to their destination; true when the file is whole.
fn take(
    running: &mut Running<'_>,
    length: Option<u64>,
    cksum: &mut Cksum,
    destination: &mut Destination,
) -> Result<bool> {
    if let Some(length) = length {
        let wanted = usize::try_from(length - cksum.length).unwrap_or(usize::MAX);
        let count = wanted.min(running.stdout.len());
        cksum.update(&running.stdout[..count]);
        destination.write(&running.stdout[..count])?;
        running.stdout.clear();
        return Ok(cksum.length == length);
    }
    // No length is known: the end mark is the end, so keep back what could be its beginning.
    let end = running.script.find_end(&running.stdout, 0);
    let count = end.map_or_else(
        || {
            running
                .stdout
                .len()
                .saturating_sub(running.script.mark_length())
        },
        |(at, _)| at,
    );
    cksum.update(&running.stdout[..count]);
    destination.write(&running.stdout[..count])?;
    running.stdout.drain(..count);
    Ok(end.is_some_and(|(_, rc)| rc == 0))
}

fn verify(cksum: Cksum, announced: &Announced) -> std::result::Result<(), String> {
    let (length, sum) = (cksum.length, cksum.sum());
    match announced.sum {
        Some(expected) if expected != sum => Err(format!(
            "it changed while it was read (cksum {sum} over {length} bytes, expected {expected}); try again"
        )),
        _ => Ok(()),
    }
}

/// The local file: a temporary name beside it, renamed when whole. Dropped before that, the temporary file goes and an
/// older file stays as it was.
struct Destination {
    path: PathBuf,
    temporary: Option<PathBuf>,
    file: File,
}

impl Destination {
    fn create(path: &Path, nonce: &str) -> Result<Self> {
        // As `open` for writing would: a link is followed, something that is not a regular file is written as it is.
        let path = if path.is_symlink() {
            path.canonicalize().unwrap_or_else(|_| path.to_owned())
        } else {
            path.to_owned()
        };
        let existing = path.metadata().ok();
        if let Some(kind) = existing.as_ref().map(std::fs::Metadata::file_type) {
            if kind.is_dir() {
                let source = std::io::Error::from(ErrorKind::IsADirectory);
                return Err(Error::Local { path, source });
            }
            if kind.is_char_device() || kind.is_block_device() {
                let file = local(&path, File::options().write(true).open(&path))?;
                return Ok(Self {
                    path,
                    temporary: None,
                    file,
                });
            }
        }
        let temporary = path.with_file_name(format!(".gangway-{nonce}"));
        let file = local(&path, sys::create_new(&temporary, 0o666))?;
        if let Some(existing) = existing {
            local(
                &path,
                file.set_permissions(std::fs::Permissions::from_mode(
                    existing.permissions().mode() & 0o7777,
                )),
            )?;
        }
        Ok(Self {
            path,
            temporary: Some(temporary),
            file,
        })
    }

    fn write(&mut self, bytes: &[u8]) -> Result<()> {
        local(&self.path, self.file.write_all(bytes))
    }

    fn keep(&mut self) -> Result<()> {
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
    use proptest::prelude::*;
    use std::process::{Command, Stdio};

    fn coreutils(bytes: &[u8]) -> String {
        let mut child = Command::new("cksum")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(bytes).unwrap();
        String::from_utf8(child.wait_with_output().unwrap().stdout)
            .unwrap()
            .trim()
            .to_owned()
    }

    fn ours(bytes: &[u8]) -> String {
        let mut cksum = Cksum::new();
        for part in bytes.chunks(1000) {
            cksum.update(part);
        }
        let length = cksum.length;
        format!("{} {length}", cksum.sum())
    }

    #[test]
    fn the_sum_is_that_of_cksum() {
        for bytes in [
            vec![],
            vec![0],
            b"123456789".to_vec(),
            vec![7; 65_536],
            vec![1; 300_000],
        ] {
            assert_eq!(ours(&bytes), coreutils(&bytes));
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_sum_of_anything(bytes in proptest::collection::vec(any::<u8>(), 0..4000)) {
            prop_assert_eq!(ours(&bytes), coreutils(&bytes));
        }
    }

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
