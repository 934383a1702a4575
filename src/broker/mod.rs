//! The broker: one daemon of this user that keeps exec streams to agents, and relays frames between them and its clients.
//!
//! # Its life
//!
//! A worker that finds nobody listening ([`connect`]) takes a lock and starts `python -c …`, which becomes a daemon of its own session,
//! and calls [`daemon::serve`]. That listens under the name of [`control_path`] and serves: one thread, one state (`server`), a task for
//! each connection and each process. When it has had no agent for five seconds, and no client that came for one, it takes the same
//! lock, removes its socket and ends; a worker that comes at that moment sees its connection close before any HELLO and starts the next
//! broker. A broker that is killed leaves a socket behind on which nobody listens: the next one replaces it. Its agents see the end of
//! their stdin.
//!
//! # What it holds
//!
//! *Openings* (`openings`): clients that were told to START, at most eight per engine, plays taking turns; all others who want the
//! same key wait. *Processes* (`process`): what clients have it SPAWN. One that is adopted is an *agent* (`agents`), one whose
//! client leaves before that is killed. An agent stays while a play that was given it lives (`plays`), then for as long as its
//! ACQUIRE said; above a budget taken from the limit of open files the one unused for longest goes first. It ends by the end
//! of its stdin, and is killed if that takes more than five seconds.
//!
//! # What bounds it
//!
//! Whatever waits for a peer is in its `outbox`: DATA, STDOUT and STDERR under credit, which the broker checks on both sides, and a few
//! control frames per request. An agent that breaks the protocol is ended and its requests are LOST; a client is closed. Before
//! an agent is adopted there is no credit: the broker stops reading a process whose opener does not read, and closes a client that
//! sends 4 MiB which the process does not read. A process of another user cannot connect; what a container sends can
//! answer its own requests and nothing else.

mod agents;
pub mod client;
pub mod connect;
pub mod control_path;
pub mod daemon;
mod log;
mod openings;
mod outbox;
mod plays;
mod process;
mod server;
