//! One frame, and a buffer that finds frames in a stream of bytes.

use super::MAX_PAYLOAD;

/// Bytes before a payload.
pub const HEADER: usize = 9;

/// What a frame is. Which way it goes, and its payload, are in brackets: c(lient), b(roker), a(gent).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// First frame of each side (c→b, b→c, a→b: head).
    Hello = 1,
    /// Are you there? (b→a, c→b, id 0, empty)
    Ping = 2,
    /// Yes (a→b, b→c, id 0, empty).
    Pong = 3,

    /// Run this (c→b: the agent's number as u32, then a head; b→a: the head alone).
    Request = 16,
    /// Bytes for the request, or for the stdin of a process being opened (c→b→a).
    Data = 17,
    /// No more [`Kind::Data`] (c→b→a, empty).
    End = 18,
    /// The other side may send so many bytes more (both ways, u32).
    Credit = 19,
    /// End this request (c→b→a, empty).
    Cancel = 20,

    /// The request was accepted and runs (a→b→c: head).
    Started = 32,
    /// Bytes (a→b→c).
    Stdout = 33,
    /// Bytes (a→b→c).
    Stderr = 34,
    /// The result, the last frame of its request (a→b→c: head).
    Exit = 35,
    /// Parts of a module that the agent does not have (a→b→c: head).
    Want = 36,

    /// Accept nothing new, end when the running requests have (b→a, id 0, empty).
    Retire = 48,

    /// Is there an agent for this key? (c→b: head)
    Acquire = 64,
    /// Yes (b→c: head).
    Available = 65,
    /// No, and you open it (b→c, empty).
    Start = 66,
    /// No, and there can be none: the reason (b→c: head).
    Unusable = 67,
    /// Start this process (c→b: head).
    Spawn = 68,
    /// It ended before it was adopted (b→c: head).
    Ended = 69,
    /// It is an agent now (c→b: head).
    Adopt = 70,
    /// It is none; end it (c→b: head).
    GiveUp = 71,
    /// The agent is gone, and nothing of the request was written to it (b→c: head).
    Gone = 72,
    /// The agent was lost after the request had been written to it (b→c: head).
    Lost = 73,
    /// Retire all agents of a target (c→b: head).
    Reset = 74,
    /// What is there? (c→b, empty)
    Status = 75,
    /// End all agents that are idle, and the broker when the last one has ended (c→b, empty).
    Stop = 76,
    /// The answer to [`Kind::Reset`], [`Kind::Status`] and [`Kind::Stop`] (b→c: head).
    Done = 77,
}

impl Kind {
    /// The kind with this number.
    pub fn from_number(number: u8) -> Option<Self> {
        use Kind::{
            Acquire, Adopt, Available, Cancel, Credit, Data, Done, End, Ended, Exit, GiveUp, Gone, Hello,
            Lost, Ping, Pong, Request, Reset, Retire, Spawn, Start, Started, Status, Stderr, Stdout, Stop,
            Unusable, Want,
        };
        [
            Hello, Ping, Pong, Request, Data, End, Credit, Cancel, Started, Stdout, Stderr, Exit, Want,
            Retire, Acquire, Available, Start, Unusable, Spawn, Ended, Adopt, GiveUp, Gone, Lost, Reset,
            Status, Stop, Done,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == number)
    }
}

/// One frame with its payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    /// What it is.
    pub kind: Kind,
    /// The request, or 0.
    pub id: u32,
    /// A head as JSON, or bytes.
    pub payload: Vec<u8>,
}

/// Why a stream of bytes is no stream of frames. It cannot be used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// A number that is no [`Kind`].
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// A length above [`MAX_PAYLOAD`].
    #[error("a frame of {0} bytes")]
    Length(u32),
}

impl Frame {
    /// A frame without a payload.
    pub fn empty(kind: Kind, id: u32) -> Self {
        Self { kind, id, payload: Vec::new() }
    }

    /// A frame that gives the other side `bytes` more.
    pub fn credit(id: u32, bytes: u32) -> Self {
        Self { kind: Kind::Credit, id, payload: bytes.to_be_bytes().to_vec() }
    }

    /// What a credit frame gives; `None` when its payload is no number.
    pub fn credited(&self) -> Option<u32> {
        Some(u32::from_be_bytes(self.payload.as_slice().try_into().ok()?))
    }

    /// Appends the frame as bytes.
    pub fn write_to(&self, out: &mut Vec<u8>) {
        write(out, self.kind, self.id, &self.payload);
    }
}

/// Appends a frame as bytes.
///
/// # Panics
/// When the payload is longer than [`MAX_PAYLOAD`]: who builds a frame has cut or refused it before.
pub fn write(out: &mut Vec<u8>, kind: Kind, id: u32, payload: &[u8]) {
    assert!(payload.len() <= MAX_PAYLOAD, "a payload of {} bytes", payload.len());
    let length = u32::try_from(payload.len()).expect("it is below the limit");
    out.reserve(HEADER + payload.len());
    out.push(kind as u8);
    out.extend_from_slice(&id.to_be_bytes());
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(payload);
}

/// Bytes as they arrive, and the frames in them. Holds no more than one unfinished frame and the last piece.
#[derive(Debug, Default)]
pub struct Frames {
    bytes: Vec<u8>,
    start: usize,
}

impl Frames {
    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.start > 0 {
            self.bytes.drain(..self.start);
            self.start = 0;
        }
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole frame, if there is one.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Malformed> {
        let Some((header, rest)) = self.bytes[self.start..].split_first_chunk::<HEADER>() else {
            return Ok(None);
        };
        let [kind, i0, i1, i2, i3, l0, l1, l2, l3] = *header;
        let kind = Kind::from_number(kind).ok_or(Malformed::Kind(kind))?;
        let announced = u32::from_be_bytes([l0, l1, l2, l3]);
        let length = usize::try_from(announced).unwrap_or(usize::MAX);
        if length > MAX_PAYLOAD {
            return Err(Malformed::Length(announced));
        }
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let frame = Frame { kind, id: u32::from_be_bytes([i0, i1, i2, i3]), payload: payload.to_vec() };
        self.start += HEADER + length;
        Ok(Some(frame))
    }

    /// True when no part of a frame is held.
    pub fn is_empty(&self) -> bool {
        self.start == self.bytes.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_frame() -> impl Strategy<Value = Frame> {
        let kind = any::<u8>().prop_filter_map("a kind", Kind::from_number);
        (kind, any::<u32>(), prop::collection::vec(any::<u8>(), 0..300))
            .prop_map(|(kind, id, payload)| Frame { kind, id, payload })
    }

    fn all(frames: &mut Frames) -> Vec<Frame> {
        std::iter::from_fn(|| frames.next_frame().unwrap()).collect()
    }

    proptest! {
        #[test]
        fn frames_arrive_as_sent_however_they_are_cut(
            sent in prop::collection::vec(any_frame(), 0..8),
            piece in 1..97_usize,
        ) {
            let mut bytes = Vec::new();
            for frame in &sent {
                frame.write_to(&mut bytes);
            }
            let mut frames = Frames::default();
            let mut arrived = Vec::new();
            for part in bytes.chunks(piece) {
                frames.push(part);
                arrived.extend(all(&mut frames));
            }
            prop_assert_eq!(arrived, sent);
            prop_assert!(frames.is_empty());
        }

        #[test]
        fn any_bytes_are_frames_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400)) {
            let mut frames = Frames::default();
            frames.push(&bytes);
            let mut taken = 0;
            while let Ok(Some(frame)) = frames.next_frame() {
                taken += HEADER + frame.payload.len();
            }
            prop_assert!(taken <= bytes.len());
        }
    }

    #[test]
    fn an_announced_length_is_refused_before_it_arrives() {
        let mut frames = Frames::default();
        frames.push(&[17, 0, 0, 0, 1, 0xff, 0xff, 0xff, 0xff]);
        assert_eq!(frames.next_frame(), Err(Malformed::Length(u32::MAX)));
        let mut frames = Frames::default();
        frames.push(&[99, 0, 0, 0, 1, 0, 0, 0, 0]);
        assert_eq!(frames.next_frame(), Err(Malformed::Kind(99)));
    }
}
