//! The core of gangway: Ansible's `exec_command`, `put_file` and `fetch_file` in containers that run no sshd.
//!
//! A request passes through these layers, each of which knows only those below it:
//!
//! * `bindings`: Python's view, the extension module `ansible_gangway._core`;
//! * [`session`]: a target's three calls, become prompts, verified transfers;
//! * [`transport`]: how an exec stream is opened;
//! * [`engine`]: what is particular to runc, docker, kubectl: options to command lines, failures to errors, no I/O;
//! * [`broker`]: the daemon that keeps exec streams to agents between tasks, and how a worker reaches it;
//! * [`wire`]: the frames that workers, broker and agents speak, no I/O;
//! * [`error`] and `sys`, the calls that only Linux has.
//!
//! It runs in a forked Ansible worker: nothing starts a thread or a runtime, and every wait is a `poll` that Python's signal
//! handlers can end. The broker's own process is the exception: there a runtime of one thread does everything.

mod bindings;
pub mod broker;
pub mod engine;
pub mod error;
pub mod session;
mod sys;
pub mod transport;
pub mod wire;
