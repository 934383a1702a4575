//! Signals during a wait.
//!
//! Ansible's workers handle SIGINT and SIGTERM by killing their process group and `os._exit`: once that handler runs, nothing can end
//! the command in the container any more, and the engines' clients do not. So a wait learns of a signal before Python's handlers run
//! (`signal.set_wakeup_fd`), ends the command, and only then lets them.

use std::io::{PipeReader, PipeWriter, Read, pipe};
use std::os::fd::{AsRawFd, RawFd};

use pyo3::prelude::*;
use rustix::fs::OFlags;
use rustix::process::Signal;

use crate::error::{Error, Result};
use crate::transport::Interrupt;

/// What a wait in this process listens to.
#[derive(Default)]
pub(super) struct Signals {
    wakeup: Option<Wakeup>,
    raised: Option<PyErr>,
}

struct Wakeup {
    arrived: PipeReader,
    // Python writes to it as long as it is open.
    _python: PipeWriter,
    before: RawFd,
}

impl Signals {
    /// Asks Python to say which signals arrive; only its main thread can be asked, others have the handlers alone.
    pub(super) fn listen(py: Python<'_>) -> Self {
        Self { wakeup: Wakeup::new(py).ok(), raised: None }
    }

    /// Gives the wake-up descriptor back, runs the handlers that are due, and returns what one of them raised.
    pub(super) fn end(self, py: Python<'_>, interrupted: bool) -> Option<PyErr> {
        if let Some(wakeup) = self.wakeup {
            let _ = set_wakeup_fd(py, wakeup.before);
        }
        if interrupted { self.raised.or_else(|| py.check_signals().err()) } else { None }
    }
}

impl Interrupt for Signals {
    fn check(&mut self) -> Result<()> {
        if self.wakeup.as_mut().is_some_and(Wakeup::ends_this_process) {
            return Err(Error::Interrupted);
        }
        let checked = Python::attach(|py| -> PyResult<()> { py.check_signals() });
        checked.map_err(|raised| {
            self.raised = Some(raised);
            Error::Interrupted
        })
    }
}

impl Wakeup {
    fn new(py: Python<'_>) -> PyResult<Self> {
        let (arrived, python) = pipe()?;
        rustix::fs::fcntl_setfl(&arrived, OFlags::NONBLOCK).map_err(std::io::Error::from)?;
        rustix::fs::fcntl_setfl(&python, OFlags::NONBLOCK).map_err(std::io::Error::from)?;
        let before = set_wakeup_fd(py, python.as_raw_fd())?;
        Ok(Self { arrived, _python: python, before })
    }

    /// True when a signal arrived whose handler is not expected to return here.
    fn ends_this_process(&mut self) -> bool {
        let mut numbers = [0; 64];
        let count = self.arrived.read(&mut numbers).unwrap_or(0);
        let ending = [Signal::INT, Signal::TERM, Signal::HUP, Signal::QUIT];
        numbers[..count]
            .iter()
            .any(|number| ending.iter().any(|signal| signal.as_raw() == i32::from(*number)))
    }
}

fn set_wakeup_fd(py: Python<'_>, fd: RawFd) -> PyResult<RawFd> {
    let arguments = pyo3::types::PyDict::new(py);
    arguments.set_item("warn_on_full_buffer", false)?;
    py.import("signal")?.call_method("set_wakeup_fd", (fd,), Some(&arguments))?.extract()
}
