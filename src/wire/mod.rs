//! The one wire format: between a client (an Ansible worker) and the broker, and between the broker and an agent. No I/O here.
//!
//! # Frames
//!
//! Both hops carry frames in both directions:
//!
//! ```text
//! kind: u8   id: u32   length: u32   payload: `length` bytes          (big-endian, 9 bytes before the payload)
//! ```
//!
//! `length` is at most [`MAX_PAYLOAD`]; a frame with more, or of a kind that its receiver does not know, ends the stream. A payload is
//! JSON (a *head*, [`message`]) or raw bytes. Bytes inside a head are base64, since JSON has only text. `id` names a request; its
//! sender chooses it, never twice on one stream; 0 is the stream itself.
//!
//! An agent's stdout may begin with other people's bytes (a motd, `BECOME-SUCCESS-…`). Its first frame, HELLO, is preceded by
//! [`MAGIC`], a blank, the nonce of its bootstrap and a line feed; everything before is skipped. The versions in both HELLOs must be
//! [`VERSION`]: client, broker and agent come from one build, so there is nothing to negotiate.
//!
//! # A request
//!
//! ```text
//! client                          broker                         agent
//! REQUEST agent, head    ──────►  REQUEST head         ──────►
//! DATA…  END             ──────►  DATA…  END           ──────►   stdin of the command, or the file's bytes
//!                        ◄──────  STARTED              ◄──────   it runs
//!                        ◄──────  STDOUT… STDERR…      ◄──────
//! CREDIT                 ──────►  CREDIT               ──────►
//!                        ◄──────  EXIT head            ◄──────   always the last frame of a request
//! CANCEL                 ──────►  CANCEL               ──────►   TERM, then KILL; EXIT follows all the same
//! ```
//!
//! The broker relays: it replaces ids, and knows nothing of what a head asks; one without sense is refused by an EXIT that says that nothing
//! ran. A client whose connection closes has cancelled its requests. The broker answers GONE instead when the agent
//! ended, or did not answer a ping, *before* the request was written to it (nothing ran: open another), and LOST when that happened after
//! (the outcome is unknown: nobody repeats it).
//!
//! # Who is there
//!
//! PING asks, PONG answers, both with id 0. The broker asks an agent that was silent before it gives it a request, and every 15 seconds
//! so that the agent hears it; an agent that hears nothing for a minute takes its broker for gone. A client asks the broker after 15
//! seconds of silence while it waits for something, and 30 seconds later takes it for stopped or hung: the outcome of a request that was
//! written is then unknown.
//!
//! # Credit
//!
//! For each request and direction the sender of DATA, or of STDOUT and STDERR together, may have [`WINDOW`] bytes under way; CREDIT gives it
//! more as the receiver has used them. So every queue is bounded, every stream is always drained, and a slow client or a command
//! that does not read holds up nobody else: an agent without credit stops reading *that* child's pipes. All other frames are exempt.
//! Exceeding the credit ends the stream.
//!
//! # Opening an agent
//!
//! The broker keeps streams; how one is opened only the client knows. It asks with ACQUIRE for the agent of a key and gets
//! AVAILABLE, or START: it is the one to open it (others wait), by SPAWN. Where a name can lead to several containers, as `deploy/web` does,
//! all three say to which one it led the target's agents, for what one step leaves there another must find. The broker starts that process with pipes; on the same id
//! DATA and END are its stdin, STDOUT and STDERR what it says, byte for byte and without credit, ENDED its end. When the client has seen the
//! HELLO it sends ADOPT: from the next byte on the broker speaks frames with the process, and answers AVAILABLE. `GIVE_UP` instead kills the
//! process; with a reason the key is UNUSABLE for a while (no Python there: everybody takes the direct path), without one the next
//! who waits is told to START. An ACQUIRE that is `ahead` of its use never waits: it is UNUSABLE, for nobody else, where it would. One
//! for the target's `first` agent is so too where there is another or is about to be; it opens an agent on a guess, whose key only ADOPT knows. After ENDED the opener may SPAWN again on the same id. An opening has a bound, since others may wait for
//! it: two minutes, or four times the timeout of its ACQUIRE; then its process is killed, and ENDED says so (errno ETIMEDOUT).

pub mod frame;
pub mod message;

/// Of the format; both HELLOs carry it.
pub const VERSION: u32 = 1;

/// The longest payload of a frame.
pub const MAX_PAYLOAD: usize = 1 << 20;

/// The longest payload that a sender of DATA, STDOUT or STDERR makes: what one request may put before the frames of another.
pub const CHUNK: usize = 64 << 10;

/// Bytes of a request that may be under way in one direction before any CREDIT.
pub const WINDOW: usize = 256 << 10;

/// What an agent writes before its first frame, followed by a blank, its nonce and a line feed. 0x1e keeps it out of any text.
pub const MAGIC: &[u8] = b"\x1egangway-agent";
