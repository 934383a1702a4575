//! The calls that only Linux has, in one place.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::process::Child;

use rustix::fs::{CWD, FileType, MemfdFlags, Mode, OFlags, ResolveFlags};
use rustix::process::{Pid, PidfdFlags};

/// Bytes that a child process opens by path although they never touch a disk or a command line.
#[derive(Debug)]
pub struct Memfd(File);

impl Memfd {
    /// A new memfd with `contents`, inherited by every process spawned while it lives.
    ///
    /// It is open across `exec` on purpose: spawn at once and drop it, so that no other child gets it.
    pub fn new(contents: &[u8]) -> io::Result<Self> {
        let mut file = File::from(rustix::fs::memfd_create("gangway", MemfdFlags::empty())?);
        file.write_all(contents)?;
        Ok(Self(file))
    }

    /// The path under which a child that inherited it opens it afresh, from its first byte.
    pub fn path(&self) -> OsString {
        format!("/proc/self/fd/{}", self.0.as_raw_fd()).into()
    }

    /// Keeps it from children that are spawned from now on.
    pub fn close_on_exec(&self) -> io::Result<()> {
        Ok(rustix::io::fcntl_setfd(&self.0, rustix::io::FdFlags::CLOEXEC)?)
    }

    /// At most `limit` bytes of what is in it now.
    pub fn contents(&self, limit: u64) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(self.path())?.take(limit).read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

/// A descriptor that becomes readable when `child` ends; `None` where the kernel has none (before Linux 5.3).
pub(crate) fn pidfd(child: &Child) -> Option<OwnedFd> {
    rustix::process::pidfd_open(Pid::from_child(child), PidfdFlags::empty()).ok()
}

/// Makes reads and writes return at once, and asks for a pipe of a megabyte: fewer wake-ups on large output.
pub(crate) fn tune_pipe(pipe: impl AsFd) -> io::Result<()> {
    let flags = rustix::fs::fcntl_getfl(&pipe)?;
    rustix::fs::fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?;
    let _ = rustix::pipe::fcntl_setpipe_size(&pipe, 1 << 20); // a courtesy: the limit per user may be reached
    Ok(())
}

/// Moves bytes of a file, from `offset` on, into a pipe: as many as it takes, at most `most`.
pub(crate) fn splice_from(file: &File, mut offset: u64, pipe: impl AsFd, most: usize) -> io::Result<usize> {
    let flags = rustix::pipe::SpliceFlags::NONBLOCK;
    Ok(rustix::pipe::splice(file, Some(&mut offset), pipe, None, most, flags)?)
}

/// A regular file of the process `pid`'s own root, at most `limit` bytes of it.
///
/// The container decides what lies there: every link is resolved inside its root, a FIFO cannot block, and
/// only a regular file is read.
pub(crate) fn read_in_root(pid: u32, path: &str, limit: u64) -> io::Result<Vec<u8>> {
    let root = rustix::fs::open(
        Path::new(&format!("/proc/{pid}/root")),
        OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    let file = rustix::fs::openat2(
        root,
        path.trim_start_matches('/'),
        OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
    )?;
    if FileType::from_raw_mode(rustix::fs::fstat(&file)?.st_mode) != FileType::RegularFile {
        return Err(io::Error::other(format!("{path} in the container is not a regular file")));
    }
    let mut bytes = Vec::new();
    File::from(file).take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::other(format!("{path} in the container is larger than {limit} bytes")));
    }
    Ok(bytes)
}

/// Creates `path` for writing and refuses anything that is already there, links included.
pub(crate) fn create_new(path: &Path, mode: u32) -> io::Result<File> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    Ok(File::from(rustix::fs::openat(CWD, path, flags, Mode::from_raw_mode(mode))?))
}

/// Bytes that an unprivileged process may still write where `file` lies.
pub(crate) fn free_bytes(file: &File) -> io::Result<u64> {
    let system = rustix::fs::fstatvfs(file)?;
    Ok(system.f_bavail.saturating_mul(system.f_frsize))
}

/// Sixteen hexadecimal digits that nobody can foresee.
pub(crate) fn nonce() -> io::Result<String> {
    let mut bytes = [0_u8; 8];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memfd_is_read_from_its_start_by_path() {
        let memfd = Memfd::new(b"secret").unwrap();
        assert_eq!(memfd.contents(100).unwrap(), b"secret");
        assert_eq!(std::fs::read(memfd.path()).unwrap(), b"secret");
        assert_eq!(memfd.contents(3).unwrap(), b"sec");
    }

    #[test]
    fn only_regular_files_of_bounded_size_are_read_in_a_root() {
        let me = std::process::id();
        assert!(read_in_root(me, "/proc/self/status", 1 << 20).unwrap().starts_with(b"Name:"));
        assert!(read_in_root(me, "/dev/null", 10).unwrap_err().to_string().contains("not a regular file"));
        assert!(read_in_root(me, "/proc/self/status", 10).unwrap_err().to_string().contains("larger"));
        assert!(read_in_root(me, "/nonexistent", 10).is_err());
    }

    #[test]
    fn nonces_differ() {
        assert_ne!(nonce().unwrap(), nonce().unwrap());
    }
}
