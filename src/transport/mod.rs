//! How an exec stream is opened: today by the engine's own command line as a child process ([`cli`]).

pub mod cli;

use crate::error::Result;

/// Asked about every 100 ms of a wait, and whenever a signal arrives, whether to go on.
pub trait Interrupt {
    /// `Err(Error::Interrupted)` ends the wait; the child process is then ended too.
    fn check(&mut self) -> Result<()>;
}

/// Nobody interrupts.
#[derive(Debug)]
pub struct Uninterrupted;

impl Interrupt for Uninterrupted {
    fn check(&mut self) -> Result<()> {
        Ok(())
    }
}
