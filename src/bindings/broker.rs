//! The broker's side of the native module: what the daemon calls, and what `gangway broker` asks.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use serde_json::json;

use super::exceptions::to_python;
use super::path;
use super::signals::Signals;
use crate::broker::connect::{Connected, Start, connect, connect_existing};
use crate::broker::control_path::{self, ControlPath};
use crate::broker::daemon;
use crate::error::{Error, Result};
use crate::transport::Interrupt;
use crate::wire::frame::Kind;

/// What one broker may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

#[pyfunction]
#[pyo3(signature = (*, directory, name, log, listening))]
pub(super) fn serve_broker(
    py: Python<'_>,
    directory: &[u8],
    name: String,
    log: &[u8],
    listening: &Bound<'_, PyAny>,
) -> PyResult<()> {
    let control = ControlPath { directory: path(directory).to_owned(), name };
    let listening = listening.clone().unbind();
    let listening = || Python::attach(|py| listening.call0(py).map(drop)).map_err(std::io::Error::other);
    py.detach(|| daemon::serve(&control, path(log), listening))
        .map_err(|error| PyOSError::new_err(format!("{}: {error}", control.socket().display())))
}

/// See `_core.pyi`.
#[pyfunction]
#[pyo3(signature = (*, python, package))]
pub(super) fn broker_start(py: Python<'_>, python: &[u8], package: &[u8]) -> PyResult<u32> {
    let start = Start {
        python: path(python).to_owned(),
        package: path(package).to_owned(),
        play: std::process::id(),
    };
    let build = build(py)?;
    let mut signals = Signals::listen(py);
    let result = py.detach(|| connect(&ControlPath::new(&build)?, &start, &mut signals));
    let raised = signals.end(py, matches!(result, Err(Error::Interrupted)));
    result.map(|connected| connected.hello.pid).map_err(|error| to_python(&error, raised))
}

/// The file of this module, which tells one build from another.
pub(super) fn build(py: Python<'_>) -> PyResult<PathBuf> {
    py.import("ansible_gangway._core")?.getattr("__file__")?.extract()
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn broker_status(py: Python<'_>) -> PyResult<Vec<String>> {
    let answers = each(py, |socket, broker, interrupt| {
        let answered = broker.and_then(|mut broker| broker.ask(Kind::Status, ANSWER, interrupt));
        match answered {
            Ok(status) => Ok(json!(status)),
            Err(Error::Interrupted) => Err(Error::Interrupted),
            Err(error) => Ok(json!({ "socket": socket.display().to_string(), "error": error.sentence() })),
        }
    })?;
    Ok(answers.iter().map(ToString::to_string).collect())
}

/// See `_core.pyi`.
#[pyfunction]
pub(super) fn broker_stop(py: Python<'_>) -> PyResult<usize> {
    let stopped =
        each(py, |_, broker, interrupt| broker?.ask(Kind::Stop, ANSWER, interrupt).map(|_| json!(null)))?;
    Ok(stopped.len())
}

/// Asks each broker that listens in the control directory.
fn each(
    py: Python<'_>,
    mut ask: impl FnMut(PathBuf, Result<Connected>, &mut dyn Interrupt) -> Result<serde_json::Value> + Send,
) -> PyResult<Vec<serde_json::Value>> {
    let mut signals = Signals::listen(py);
    let result = py.detach(|| {
        let mut answers = Vec::new();
        for control in control_paths() {
            let connected = connect_existing(&control, std::process::id(), &mut signals);
            if let Some(connected) = connected.transpose() {
                answers.push(ask(control.socket(), connected, &mut signals)?);
            }
        }
        Ok(answers)
    });
    let raised = signals.end(py, matches!(result, Err(Error::Interrupted)));
    result.map_err(|error| to_python(&error, raised))
}

fn control_paths() -> Vec<ControlPath> {
    let directory = control_path::directory();
    let entries = std::fs::read_dir(&directory).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| control_path::is_name(name)).collect();
    names.sort_unstable();
    names.into_iter().map(|name| ControlPath { directory: directory.clone(), name }).collect()
}
