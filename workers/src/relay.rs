//! The relay: publishes the log. It claims streams that are behind, publishes each in its order with confirms, and
//! records how far it got; after a nack or a return it goes on from that stream's first unconfirmed event.

use std::time::Duration;

use chrono::TimeDelta;
use dat_bus::PublishError;
use dat_store::StoreError;
use tokio::time::Instant;

use crate::fleet::Fleet;
use crate::outbox::Outbox;

/// Streams in one round.
const STREAMS: i64 = 64;
/// Events of a stream in one round.
const EVENTS: i64 = 200;
/// How long a claim holds, unless a worker's lease is longer. Nobody outside, governance included, hears of what a dead
/// relay had claimed until then.
const LEASE: TimeDelta = TimeDelta::seconds(5);
/// How long one holds at most, where rounds take so long that another relay takes over.
const LONGEST_LEASE: TimeDelta = TimeDelta::seconds(60);
/// How often one relay of the fleet looks when nobody rings.
const LOOK: Duration = Duration::from_millis(500);
/// How long a stream waits of which nothing could be read yet.
const UNSEEN: TimeDelta = TimeDelta::milliseconds(50);
/// How long a stream waits after an event that nobody took.
const REFUSED: TimeDelta = TimeDelta::seconds(1);

/// Rounds of fewer events than this are spaced where they do not end: each costs the database two transactions, however
/// little it carries, and events that wait a little share one.
const FEW: u64 = 32;
/// One small round in so long, in the long run,
const SPACING: Duration = Duration::from_millis(250);
/// after so many that nothing held back: what one plan has to say goes out at once.
const AT_ONCE: u32 = 16;

/// When the next small round may be: GCRA, in this process alone.
struct Pace {
    even: Instant,
}

impl Pace {
    /// Notes a small round; gives how long the next waits: one spacing at most. Rounds that were wanted at once did not
    /// wait for their turn, and are not made up for: thousands of them would hold back what comes after for minutes.
    fn small_round(&mut self, now: Instant) -> Duration {
        self.even = self.even.max(now).min(now + SPACING * AT_ONCE) + SPACING;
        (self.even - now).saturating_sub(SPACING * AT_ONCE)
    }
}

/// Runs until the worker has drained; the last events are published then too.
pub(crate) async fn run(fleet: &Fleet) {
    let now = fleet.now();
    let shortest = (fleet.lease_end(now) - now).max(LEASE);
    let mut lease = shortest;
    let mut pace = Pace { even: Instant::now() };
    loop {
        let more = match round(fleet, &mut lease, shortest).await {
            Ok(Round { published, more }) => {
                if published < FEW {
                    tokio::select! {
                        () = fleet.closing.cancelled() => {}
                        () = fleet.bells.log_now.notified() => continue,
                        () = tokio::time::sleep(pace.small_round(Instant::now())) => {}
                    }
                }
                more
            }
            Err(error) if fleet.closing.is_cancelled() => {
                tracing::warn!(%error, "the log is published by another worker");
                return;
            }
            Err(error) => {
                tracing::warn!(%error, "the relay waits for the database");
                false
            }
        };
        if more {
            continue;
        }
        if fleet.closing.is_cancelled() {
            return;
        }
        until_there_may_be_more(fleet).await;
    }
}

/// Waits until something was written here, or it is this relay's turn to look for what others left.
async fn until_there_may_be_more(fleet: &Fleet) {
    loop {
        tokio::select! {
            () = fleet.bells.log.notified() => return,
            () = fleet.bells.log_now.notified() => return,
            () = fleet.closing.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
        if fleet.looks.mine("relay", LOOK).await {
            return;
        }
    }
}

/// What a round did.
struct Round {
    published: u64,
    /// There may be more.
    more: bool,
}

/// One round.
async fn round(fleet: &Fleet, lease: &mut TimeDelta, shortest: TimeDelta) -> Result<Round, StoreError> {
    let streams = fleet.store.claim_streams(STREAMS, EVENTS, *lease, fleet.now()).await?;
    if streams.is_empty() {
        return Ok(Round { published: 0, more: false });
    }
    let said = streams.iter().map(|stream| (stream.traceparent.as_str(), stream.events.as_slice()));
    let mut outbox = Outbox::new(&fleet.topology, &fleet.batched, said);
    let receipts = dat_fault::around("relay.publish", fleet.publisher.publish_all(outbox.take())).await;
    if let Err(error) = &receipts {
        log_failure(error);
    }
    let confirmed = receipts.as_deref().unwrap_or_default();
    let now = fleet.now();
    let mut all = true;
    let mut published = 0;
    let progress: Vec<_> = streams
        .into_iter()
        .enumerate()
        .map(|(place, stream)| {
            let count = outbox.confirmed(place, stream.events.len(), confirmed);
            // A stream that is behind and has nothing to read was relayed just when it was claimed, or was tampered with:
            // looked at again, not at once.
            let empty = stream.events.is_empty();
            let whole = count == stream.events.len() && !empty;
            if !whole && !empty && receipts.is_ok() {
                tracing::warn!(plan = %stream.plan, "an event was not taken: is its consumer's queue bound?");
            }
            all &= whole;
            published += count as u64;
            let pause = match (whole, empty) {
                (true, _) => TimeDelta::zero(),
                (_, true) => UNSEEN,
                _ => REFUSED,
            };
            stream.confirmed(count, now + pause)
        })
        .collect();
    let recorded = fleet.store.record_relayed(&progress).await?;
    // Taken over on the way: a claim that holds longer lets two slow relays not take over from each other for ever.
    let whole = recorded == progress.len() as u64;
    *lease = if whole { shortest } else { (*lease * 2).min(LONGEST_LEASE.max(shortest)) };
    fleet.metrics.relayed(published);
    Ok(Round { published, more: all })
}

fn log_failure(error: &PublishError) {
    tracing::warn!(%error, "events were not confirmed; they are published again");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_rounds_are_spaced_and_what_went_at_once_is_not_made_up_for() {
        let now = Instant::now();
        let mut pace = Pace { even: now };
        for _ in 0..AT_ONCE {
            assert_eq!(pace.small_round(now), Duration::ZERO);
        }
        // A thousand that something wanted at once, each whenever it was wanted.
        for _ in 0..1_000 {
            assert_eq!(pace.small_round(now), SPACING);
        }
        assert_eq!(pace.small_round(now + SPACING), SPACING, "each has its turn");
        assert_eq!(pace.small_round(now + SPACING * 100), Duration::ZERO, "and a pause is made use of");
    }
}
