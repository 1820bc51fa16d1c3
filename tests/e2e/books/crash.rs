//! Where a worker may crash: between any two of its writes. It then forgets everything that it held.

/// Between two writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Point {
    /// Token windows are reserved, nothing is claimed.
    Reserved,
    /// The claim is committed; nothing is given back, copied or sent.
    Claimed,
    /// Copies are written, nothing is sent.
    Copied,
    /// The outside system has acted; nobody wrote down what it answered.
    Acted,
    /// The outcome is committed; neither windows nor copies know.
    Settled,
    /// Windows are corrected, copies are not.
    Corrected,
    /// A failure is decided; what comes of it is not begun.
    Ruled,
    /// A rollback has begun; nobody was told.
    Undone,
    /// A probe has sealed its key; nobody wrote down what it answered.
    Probed,
    /// FLO has received; the relay's progress is not written.
    Relayed,
    /// A new era has begun; it is not filled.
    EraBegun,
    /// The era is filled; that it is over is not written.
    EraFilled,
    /// A lease is taken from a dead worker; nobody was told.
    Expired,
}

impl Point {
    /// Every point.
    pub(super) const ALL: [Self; 13] = [
        Self::Reserved,
        Self::Claimed,
        Self::Copied,
        Self::Acted,
        Self::Settled,
        Self::Corrected,
        Self::Ruled,
        Self::Undone,
        Self::Probed,
        Self::Relayed,
        Self::EraBegun,
        Self::EraFilled,
        Self::Expired,
    ];
}

/// The worker is dead.
#[derive(Debug)]
pub(super) struct Crashed;
