//! What waits to be written to one peer, and whose turn it is.
//!
//! Frames of one request keep their order in its *lane*; lanes take turns, one frame each, so that a large transfer holds up nobody.
//! CREDIT, PING, PONG, CANCEL and RETIRE go before all lanes. Nothing here limits a lane: whoever fills one does so under credit, or asks
//! [`Outbox::queued`] first.

use std::collections::{HashMap, VecDeque};

use crate::wire::frame::{Frame, HEADER, Kind};

/// A piece to write is filled up to this; a frame that has just begun is taken whole.
const PIECE: usize = 128 << 10;

/// Frames as bytes: a peer that sends them one byte each costs ten times that and no more.
#[derive(Debug, Default)]
struct Lane {
    frames: Vec<u8>,
    start: usize,
    payload: usize,
    held: bool,
}

impl Lane {
    fn is_empty(&self) -> bool {
        self.start == self.frames.len()
    }

    fn push(&mut self, frame: &Frame) {
        if self.start > self.frames.len() / 2 {
            self.frames.drain(..self.start);
            self.start = 0;
        }
        frame.write_to(&mut self.frames);
        self.payload += frame.payload.len();
    }

    /// The first frame, as bytes.
    fn pop(&mut self) -> Option<&[u8]> {
        let frame = &self.frames[self.start..];
        let length = frame.get(HEADER - 4..)?.first_chunk().map(|length| u32::from_be_bytes(*length))?;
        let length = usize::try_from(length).ok()?;
        self.start += HEADER + length;
        self.payload -= length;
        frame.get(..HEADER + length)
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    raw: Vec<u8>,
    urgent: VecDeque<Frame>,
    credits: HashMap<u32, u32>,
    lanes: HashMap<u32, Lane>,
    turns: VecDeque<u32>,
    bytes: usize,
    piece: Vec<u8>,
    sent: usize,
    begins: VecDeque<(usize, u32)>,
}

impl Outbox {
    /// Bytes that are no frames, before everything else: the stdin of a process that is no agent yet.
    pub(super) fn raw(&mut self, bytes: &[u8]) {
        self.raw.extend_from_slice(bytes);
        self.bytes += bytes.len();
    }

    /// Puts a frame before all lanes.
    pub(super) fn urgent(&mut self, frame: Frame) {
        self.bytes += frame.payload.len();
        self.urgent.push_back(frame);
    }

    /// The same, unless such a frame waits there already: who asks for it may never read.
    pub(super) fn urgent_once(&mut self, frame: Frame) {
        if !self.urgent.contains(&frame) {
            self.urgent(frame);
        }
    }

    /// Gives the peer credit; what is not yet written of it adds up in one frame.
    pub(super) fn credit(&mut self, id: u32, bytes: u32) {
        let credit = self.credits.entry(id).or_default();
        *credit = credit.saturating_add(bytes);
    }

    /// Puts a frame at the end of its request's lane.
    pub(super) fn push(&mut self, frame: &Frame) {
        let lane = self.lanes.entry(frame.id).or_default();
        if lane.is_empty() && !lane.held {
            self.turns.push_back(frame.id);
        }
        lane.push(frame);
        self.bytes += frame.payload.len();
    }

    /// Keeps the lane from being written until [`Outbox::release`]; call it before the first frame.
    pub(super) fn hold(&mut self, id: u32) {
        self.lanes.entry(id).or_default().held = true;
    }

    /// Ends [`Outbox::hold`].
    pub(super) fn release(&mut self, id: u32) {
        if let Some(lane) = self.lanes.get_mut(&id)
            && lane.held
        {
            lane.held = false;
            if !lane.is_empty() {
                self.turns.push_back(id);
            }
        }
    }

    /// Forgets what a request has not written yet.
    pub(super) fn forget(&mut self, id: u32) {
        self.credits.remove(&id);
        if let Some(lane) = self.lanes.remove(&id) {
            self.bytes -= lane.payload;
            self.turns.retain(|turn| *turn != id);
        }
    }

    /// Bytes of payload that wait in all.
    pub(super) fn queued(&self) -> usize {
        self.bytes + self.piece.len() - self.sent
    }

    /// Bytes of payload that wait in one lane.
    pub(super) fn queued_in(&self, id: u32) -> usize {
        self.lanes.get(&id).map_or(0, |lane| lane.payload)
    }

    /// True when there is nothing to write now.
    pub(super) fn is_empty(&self) -> bool {
        self.sent == self.piece.len()
            && self.raw.is_empty()
            && self.urgent.is_empty()
            && self.credits.is_empty()
            && self.turns.is_empty()
    }

    /// The next bytes to write, empty when there are none; [`Outbox::wrote`] tells how many went.
    pub(super) fn piece(&mut self) -> &[u8] {
        if self.sent == self.piece.len() {
            self.fill();
        }
        &self.piece[self.sent..]
    }

    /// Whether the next bytes to write have the first byte of a REQUEST in them.
    pub(super) fn begins_a_request(&mut self) -> bool {
        self.piece();
        !self.begins.is_empty()
    }

    /// `count` more bytes were written: the requests whose REQUEST has begun to be.
    pub(super) fn wrote(&mut self, count: usize) -> Vec<u32> {
        self.sent += count;
        let mut begun = Vec::new();
        while self.begins.front().is_some_and(|(at, _)| *at < self.sent) {
            begun.extend(self.begins.pop_front().map(|(_, id)| id));
        }
        if self.sent == self.piece.len() && self.is_empty() {
            self.piece = Vec::new(); // most peers are silent most of the time
            self.sent = 0;
        }
        begun
    }

    fn fill(&mut self) {
        self.piece.clear();
        self.sent = 0;
        self.bytes -= self.raw.len();
        self.piece.append(&mut self.raw);
        while let Some(frame) = self.urgent.pop_front() {
            self.bytes -= frame.payload.len();
            frame.write_to(&mut self.piece);
        }
        for (id, bytes) in self.credits.drain() {
            Frame::credit(id, bytes).write_to(&mut self.piece);
        }
        while self.piece.len() < PIECE
            && let Some(id) = self.turns.pop_front()
        {
            let Some(lane) = self.lanes.get_mut(&id) else { continue };
            let Some(frame) = lane.pop() else { continue };
            if frame.first() == Some(&(Kind::Request as u8)) {
                self.begins.push_back((self.piece.len(), id));
            }
            self.bytes -= frame.len() - HEADER;
            self.piece.extend_from_slice(frame);
            if lane.is_empty() {
                self.lanes.remove(&id);
            } else {
                self.turns.push_back(id);
            }
        }
    }
}

/// Bytes that a sender may still send for a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Balance(usize);

impl Balance {
    /// What a sender may send before any CREDIT.
    pub(super) const FULL: Self = Self(crate::wire::WINDOW);

    /// It sends so much; false when it may not.
    #[must_use]
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        self.0.checked_sub(bytes).inspect(|rest| self.0 = *rest).is_some()
    }

    /// It is given so much; false when that is nothing, or more than was ever used.
    #[must_use]
    pub(super) fn add(&mut self, bytes: u32) -> bool {
        let sum = self.0.saturating_add(bytes as usize);
        if bytes == 0 || sum > crate::wire::WINDOW {
            return false;
        }
        self.0 = sum;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::frame::Frames;

    fn data(id: u32, byte: u8, length: usize) -> Frame {
        Frame { kind: Kind::Data, id, payload: vec![byte; length] }
    }

    fn written(outbox: &mut Outbox) -> Vec<Frame> {
        let mut frames = Frames::default();
        let mut all = Vec::new();
        loop {
            let piece = outbox.piece().to_vec();
            if piece.is_empty() {
                break;
            }
            frames.push(&piece);
            outbox.wrote(piece.len());
            while let Some(frame) = frames.next_frame().unwrap() {
                all.push(frame);
            }
        }
        assert!(frames.is_empty() && outbox.is_empty() && outbox.queued() == 0);
        all
    }

    #[test]
    fn lanes_take_turns_and_control_frames_go_first() {
        let mut outbox = Outbox::default();
        outbox.push(&data(1, b'a', 1));
        outbox.push(&data(1, b'b', 1));
        outbox.push(&data(2, b'c', 1));
        outbox.credit(2, 5);
        outbox.credit(2, 6);
        outbox.urgent_once(Frame::empty(Kind::Ping, 0));
        outbox.urgent_once(Frame::empty(Kind::Ping, 0));
        let ids: Vec<_> = written(&mut outbox).iter().map(|frame| (frame.kind, frame.id)).collect();
        assert_eq!(
            ids,
            [(Kind::Ping, 0), (Kind::Credit, 2), (Kind::Data, 1), (Kind::Data, 2), (Kind::Data, 1)]
        );
    }

    #[test]
    fn a_held_lane_waits_and_a_forgotten_one_is_gone() {
        let mut outbox = Outbox::default();
        outbox.hold(1);
        outbox.push(&data(1, b'a', 10));
        outbox.push(&data(2, b'b', 10));
        outbox.push(&data(3, b'b', 10));
        outbox.forget(3);
        assert_eq!((outbox.queued(), outbox.queued_in(1)), (20, 10));
        let piece = outbox.piece().len();
        assert_eq!(piece, 19);
        outbox.wrote(piece);
        assert!(outbox.is_empty());
        outbox.release(1);
        assert_eq!(written(&mut outbox), [data(1, b'a', 10)]);
    }

    #[test]
    fn a_request_has_begun_with_its_first_byte() {
        let mut outbox = Outbox::default();
        outbox.push(&Frame { kind: Kind::Request, id: 1, payload: vec![0; 11] });
        outbox.push(&Frame { kind: Kind::Request, id: 2, payload: vec![0; 11] });
        assert!(outbox.begins_a_request());
        assert_eq!(outbox.piece().len(), 40);
        assert_eq!(outbox.wrote(1), [1]);
        assert!(outbox.wrote(19).is_empty() && outbox.begins_a_request());
        assert_eq!(outbox.wrote(1), [2]);
        assert!(!outbox.begins_a_request());
    }

    #[test]
    fn credit_is_what_was_used() {
        let mut balance = Balance::FULL;
        assert!(!balance.add(1) && !balance.spend(crate::wire::WINDOW + 1));
        assert!(balance.spend(crate::wire::WINDOW) && !balance.spend(1));
        assert!(!balance.add(0) && balance.add(7) && balance.spend(7) && !balance.add(u32::MAX));
    }
}
