//! Where the broker of this user, these namespaces and this build listens.
//!
//! Two installations, or a container that shares the directory, have brokers of their own: nobody has to speak with another version
//! or with agents it could not have opened itself.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result};

/// What `sockaddr_un` holds, less the byte 0 at its end.
const LONGEST: usize = 107;
const REMEDY: &str = "set XDG_RUNTIME_DIR to a directory of your own";

/// The names of one broker's files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlPath {
    /// Ours alone.
    pub directory: PathBuf,
    /// Of the socket in it.
    pub name: String,
}

impl ControlPath {
    /// The paths for this process; `build` is the file of the native module. The directory is made if need be, and checked.
    pub fn new(build: &Path) -> Result<Self> {
        let path =
            Self { directory: directory(), name: name(build).map_err(|error| unusable(build, &error))? };
        let longest = path.socket();
        let length = longest.as_os_str().as_bytes().len();
        if length > LONGEST {
            return Err(refused(format!(
                "the path {} is {length} bytes long and a socket's may be {LONGEST}: set XDG_RUNTIME_DIR to a shorter directory",
                longest.display()
            )));
        }
        make(&path.directory)?;
        Ok(path)
    }

    /// Where the broker listens.
    pub fn socket(&self) -> PathBuf {
        self.directory.join(&self.name)
    }

    /// Held by who starts a broker, and by a broker that ends.
    pub fn lock(&self) -> PathBuf {
        self.directory.join(format!("{}.lock", self.name))
    }
}

/// The control directory, which may not exist.
pub fn directory() -> PathBuf {
    let us = rustix::process::geteuid().as_raw();
    let set = |name| std::env::var_os(name).map(PathBuf::from).filter(|path: &PathBuf| path.is_absolute());
    // After su or sudo XDG_RUNTIME_DIR is often still that of the user before.
    if let Some(runtime) = set("XDG_RUNTIME_DIR")
        && std::fs::metadata(&runtime).is_ok_and(|found| found.is_dir() && found.uid() == us)
    {
        return runtime.join("gangway");
    }
    set("TMPDIR").unwrap_or_else(|| "/tmp".into()).join(format!("gangway-{us}"))
}

/// Makes the directory unless it is there, and refuses one in which others could put a socket.
pub fn make(directory: &Path) -> Result<()> {
    match DirBuilder::new().mode(0o700).create(directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(unusable(directory, &error));
        }
        _ => {}
    }
    let found = std::fs::symlink_metadata(directory).map_err(|error| unusable(directory, &error))?;
    let shown = directory.display();
    if !found.is_dir() {
        return Err(refused(format!("{shown} is not a directory: remove it, or {REMEDY}")));
    }
    if found.uid() != rustix::process::geteuid().as_raw() {
        return Err(refused(format!("{shown} belongs to the user {}: {REMEDY}", found.uid())));
    }
    if found.mode() & 0o077 != 0 {
        return Err(refused(format!(
            "others have access to {shown} (its mode is {:04o}): make it 0700, or {REMEDY}",
            found.mode() & 0o7777
        )));
    }
    Ok(())
}

/// The sentence about a path that the system refuses.
pub(super) fn unusable(path: &Path, error: &io::Error) -> Error {
    refused(format!("{}: {error}: make it usable, or {REMEDY}", path.display()))
}

/// The error of everything here.
pub(super) fn refused(said: String) -> Error {
    Error::NoBroker { said }
}

/// True for what [`name`] makes.
pub fn is_name(name: &str) -> bool {
    name.len() == 16 && name.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

fn name(build: &Path) -> io::Result<String> {
    let file = std::fs::metadata(build)?;
    let mut groups: Vec<_> = rustix::process::getgroups()?.iter().map(|group| group.as_raw()).collect();
    groups.sort_unstable();
    let mut hash = Sha256::new();
    let (real, effective) = (rustix::process::getuid().as_raw(), rustix::process::geteuid().as_raw());
    hash.update(format!("{real} {effective} {groups:?}"));
    for namespace in ["mnt", "net", "pid", "user"] {
        let inode = std::fs::metadata(format!("/proc/self/ns/{namespace}")).map(|found| found.ino());
        hash.update(inode.map_or_else(|_| " unknown".to_owned(), |inode| format!(" {inode}")));
    }
    let build = (file.dev(), file.ino(), file.mtime(), file.mtime_nsec(), file.size());
    hash.update(format!("{build:?}"));
    let digest = hash.finalize();
    Ok(digest.first_chunk().map_or_else(String::new, |first| format!("{:016x}", u64::from_be_bytes(*first))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_name_per_build() {
        let (shell, list) = (name(Path::new("/bin/sh")).unwrap(), name(Path::new("/bin/ls")).unwrap());
        assert!(is_name(&shell) && shell != list);
        assert_eq!(shell, name(Path::new("/bin/sh")).unwrap());
        assert!(!is_name("0123456789abcdef.lock") && !is_name("0123456789ABCDEF"));
    }
}
