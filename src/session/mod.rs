//! A session: `exec_command`, `put_file`, `fetch_file` on one target.
//!
//! Today every session is [`direct`]: one exec of the engine per call.

pub mod become_prompt;
mod direct;
mod resolve;
pub mod script;
mod transfer;

use std::path::Path;
use std::time::Duration;

use crate::engine::Engine;
use crate::error::Result;
use crate::transport::Interrupt;
use become_prompt::BecomePlugin;

/// What a command gave back.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandResult {
    /// Its exit status, 0 to 255; 128 + n when signal n ended it.
    pub rc: i32,
    /// Every byte it wrote to stdout.
    pub stdout: Vec<u8>,
    /// Every byte it wrote to stderr.
    pub stderr: Vec<u8>,
}

/// One target, entered as one user, for as long as one Ansible task holds it.
#[derive(Debug)]
pub struct Session {
    engine: Engine,
    shell: Vec<u8>,
    timeout: Duration,
    resolved: bool,
}

impl Session {
    /// `shell` runs the command lines; `timeout` bounds the start of a command and a password prompt.
    pub fn new(engine: Engine, shell: Vec<u8>, timeout: Duration) -> Self {
        Self {
            engine,
            shell,
            timeout,
            resolved: false,
        }
    }

    /// Runs a shell command line. `stdin` is sent whole and then closed; `None` is an empty stdin.
    pub fn exec_command(
        &mut self,
        command: &[u8],
        stdin: Option<&[u8]>,
        become_plugin: Option<&mut dyn BecomePlugin>,
        interrupt: &mut dyn Interrupt,
    ) -> Result<CommandResult> {
        self.resolve(interrupt)?;
        direct::exec_command(self, command, stdin, become_plugin, interrupt)
    }

    /// Copies the local file to the path in the container: whole and verified, or not at all.
    ///
    /// Returns a note when that could not be done by renaming a finished file.
    pub fn put_file(
        &mut self,
        local: &Path,
        remote: &[u8],
        interrupt: &mut dyn Interrupt,
    ) -> Result<Option<String>> {
        self.resolve(interrupt)?;
        transfer::put_file(self, local, remote, interrupt)
    }

    /// Copies the file in the container to the local path: whole and verified, or not at all.
    ///
    /// Returns a note when the container has no means to verify it.
    pub fn fetch_file(
        &mut self,
        remote: &[u8],
        local: &Path,
        interrupt: &mut dyn Interrupt,
    ) -> Result<Option<String>> {
        self.resolve(interrupt)?;
        transfer::fetch_file(self, remote, local, interrupt)
    }

    fn resolve(&mut self, interrupt: &mut dyn Interrupt) -> Result<()> {
        if !self.resolved {
            resolve::resolve(&mut self.engine, self.timeout, interrupt)?;
            self.resolved = true;
        }
        Ok(())
    }

    fn target(&self) -> String {
        self.engine.target()
    }
}
