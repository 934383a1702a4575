//! The one place where an [`Error`] becomes a Python exception.

use pyo3::exceptions::{PyException, PyKeyboardInterrupt};
use pyo3::{PyErr, create_exception};

use crate::error::{self, Class};

create_exception!(
    ansible_gangway._core,
    Error,
    PyException,
    "A step failed on a container that can be reached."
);
create_exception!(ansible_gangway._core, ConnectionFailed, Error, "The path to the container failed.");
create_exception!(ansible_gangway._core, FileMissing, Error, "A file that was to be read does not exist.");

/// `raised` is the exception of a Python signal handler or callback, which an interruption lets through.
pub(super) fn to_python(error: &error::Error, raised: Option<PyErr>) -> PyErr {
    match error.class() {
        Class::Interrupted => raised.unwrap_or_else(|| PyKeyboardInterrupt::new_err(())),
        Class::Connection => ConnectionFailed::new_err(error.sentence()),
        Class::FileMissing => FileMissing::new_err(error.sentence()),
        Class::Failed => Error::new_err(error.sentence()),
    }
}
