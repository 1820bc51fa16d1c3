//! The relay's view of the log: claim streams that were left behind, read what is next, record how far it got.
//!
//! Most streams come claimed, with their events, from the transactions of this process ([`crate::handover`]). What they
//! wrote is in `relay_due` until it is published; what a dead process left there is claimed from there by any relay.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_plan::event::LoggedEvent;
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::Store;

/// Streams that one look claims; what is left is looked at again when the look's lease has run out.
const STREAMS: i64 = 256;

/// A stream that this relay may publish from until its claim runs out.
#[derive(Debug, Clone)]
pub struct ClaimedStream {
    /// The stream.
    pub plan: PlanKey,
    /// The trace context of the submission; empty for the control stream.
    pub traceparent: String,
    /// What comes next, in order: not always from the next on, where it was handed over.
    pub events: Vec<LoggedEvent>,
    /// All up to here were recorded as published.
    pub relayed: i64,
    /// The last event that was seen of it.
    pub last_sequence: i64,
    /// Which claim of the stream this is, as the database gave it: they rise, and whoever has an older one holds nothing.
    pub epoch: i64,
}

/// How far a claimed stream was published.
#[derive(Debug, Clone)]
pub struct Progress {
    plan: PlanKey,
    epoch: i64,
    confirmed: i64,
    until: DateTime<Utc>,
    kept: bool,
}

impl ClaimedStream {
    /// The first `count` events were confirmed by the broker; the claim is given back, and what is left may be claimed
    /// from `again_at`.
    #[must_use]
    pub fn confirmed(self, count: usize, again_at: DateTime<Utc>) -> Progress {
        let confirmed = count.checked_sub(1).and_then(|last| self.events.get(last)).map_or(0, |e| e.sequence);
        Progress::given_back(self.plan, self.epoch, confirmed, again_at)
    }
}

impl Progress {
    /// All up to `confirmed` was published; what is left may be claimed from `again_at`.
    #[must_use]
    pub const fn given_back(plan: PlanKey, epoch: i64, confirmed: i64, again_at: DateTime<Utc>) -> Self {
        Self { plan, epoch, confirmed, until: again_at, kept: false }
    }

    /// All up to `confirmed` was published. If that is all there is, the claim ends; if more was written, it is held
    /// until `until`.
    #[must_use]
    pub const fn kept(plan: PlanKey, epoch: i64, confirmed: i64, until: DateTime<Utc>) -> Self {
        Self { plan, epoch, confirmed, until, kept: true }
    }

    /// The stream.
    #[must_use]
    pub const fn plan(&self) -> PlanKey {
        self.plan
    }

    /// Which claim of it.
    #[must_use]
    pub const fn epoch(&self) -> i64 {
        self.epoch
    }

    /// Whether the claim holds on where more was written.
    #[must_use]
    pub const fn is_kept(&self) -> bool {
        self.kept
    }
}

/// What was recorded of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recorded {
    /// The stream.
    pub plan: PlanKey,
    /// Which claim.
    pub epoch: i64,
    /// All up to here is published.
    pub relayed: i64,
    /// Where it ends: beyond `relayed`, the claim still holds where it was to be kept.
    pub last_sequence: i64,
}

impl Store {
    /// Claims streams that up to `transactions` wrote to and that are behind, and reads up to `events` of each; nothing
    /// once everything is published, or held by a living relay. The claim runs out after `lease`, so that a relay that
    /// died strands nothing.
    pub async fn claim_streams(
        &self,
        transactions: i64,
        events: i64,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Vec<ClaimedStream>, StoreError> {
        // One statement: whoever looks for what another relay has taken costs the database little.
        let rows = dat_fault::around("relay.claim", sqlx::query!(
            r#"WITH due AS MATERIALIZED (
                 SELECT due_id, plan_ids, plan_versions FROM relay_due
                 WHERE due <= $1 ORDER BY due_id LIMIT $2 FOR UPDATE SKIP LOCKED),
             open AS MATERIALIZED (
                 SELECT due.due_id, s.plan_id, s.plan_version
                 FROM due, UNNEST(due.plan_ids, due.plan_versions) AS k (plan_id, plan_version)
                 JOIN event_stream s USING (plan_id, plan_version)
                 WHERE s.relayed < s.last_sequence),
             over AS (
                 DELETE FROM relay_due WHERE due_id IN (SELECT due_id FROM due EXCEPT SELECT due_id FROM open)),
             later AS (
                 UPDATE relay_due SET due = $3 WHERE due_id IN (SELECT due_id FROM open)),
             behind AS MATERIALIZED (
                 SELECT s.plan_id, s.plan_version
                 FROM (SELECT DISTINCT plan_id, plan_version FROM open) AS k
                 JOIN event_stream s USING (plan_id, plan_version)
                 WHERE s.relayed < s.last_sequence AND s.relay_until <= $1
                 ORDER BY s.plan_id, s.plan_version LIMIT $6 FOR UPDATE OF s SKIP LOCKED),
             claimed AS (
                 UPDATE event_stream AS s SET relay_epoch = relay_epoch + 1, relay_owner = $5, relay_until = $3
                 FROM behind WHERE s.plan_id = behind.plan_id AND s.plan_version = behind.plan_version
                 RETURNING s.plan_id, s.plan_version, s.partition_date, s.relayed, s.last_sequence, s.relay_epoch,
                           s.traceparent)
             SELECT k.plan_id AS "stream_id!", k.plan_version AS "stream_version!", k.relay_epoch AS "relay_epoch!",
                    k.relayed AS "relayed!", k.last_sequence AS "last_sequence!", k.traceparent AS "traceparent!",
                    e.sequence AS "sequence?", e.kind AS "kind?", e.at AS "at?", e.data AS "data?"
             FROM claimed k
             LEFT JOIN execution_event e
               ON e.partition_date = k.partition_date AND e.plan_id = k.plan_id
              AND e.plan_version = k.plan_version AND e.sequence > k.relayed AND e.sequence <= k.relayed + $4
             ORDER BY k.plan_id, k.plan_version, e.sequence"#,
            now,
            transactions,
            now + lease,
            events,
            self.relay().map(|relay| relay.owner),
            STREAMS,
        )
        .fetch_all(self.pool()))
        .await?;
        let mut found: BTreeMap<PlanKey, ClaimedStream> = BTreeMap::new();
        for row in rows {
            let plan = PlanKey::new(row.stream_id, row.stream_version);
            let stream = found.entry(plan).or_insert_with(|| ClaimedStream {
                plan,
                traceparent: row.traceparent,
                events: Vec::new(),
                relayed: row.relayed,
                last_sequence: row.last_sequence,
                epoch: row.relay_epoch,
            });
            if let (Some(sequence), Some(kind), Some(at), Some(data)) =
                (row.sequence, row.kind, row.at, row.data)
            {
                stream.events.push(LoggedEvent { plan, sequence, kind, at, data });
            }
        }
        Ok(found.into_values().collect())
    }

    /// Reads up to `events` of each stream, from the one after that which is named.
    pub async fn read_streams(
        &self,
        after: &[(PlanKey, i64)],
        events: i64,
    ) -> Result<Vec<LoggedEvent>, StoreError> {
        let rows = sqlx::query!(
            "SELECT e.plan_id, e.plan_version, e.sequence, e.kind, e.at, e.data
             FROM UNNEST($1::uuid[], $2::integer[], $3::bigint[]) AS k (plan_id, plan_version, after)
             JOIN event_stream s USING (plan_id, plan_version)
             JOIN execution_event e
               ON e.partition_date = s.partition_date AND e.plan_id = s.plan_id
              AND e.plan_version = s.plan_version AND e.sequence > k.after AND e.sequence <= k.after + $4
             ORDER BY e.plan_id, e.plan_version, e.sequence",
            &after.iter().map(|(plan, _)| plan.plan_id).collect::<Vec<_>>(),
            &after.iter().map(|(plan, _)| plan.plan_version).collect::<Vec<_>>(),
            &after.iter().map(|(_, sequence)| *sequence).collect::<Vec<_>>(),
            events,
        )
        .fetch_all(self.pool())
        .await?;
        Ok(rows
            .into_iter()
            .map(|row| LoggedEvent {
                plan: PlanKey::new(row.plan_id, row.plan_version),
                sequence: row.sequence,
                kind: row.kind,
                at: row.at,
                data: row.data,
            })
            .collect())
    }

    /// Records progress, and deletes what is no longer due. Gives what was recorded: a relay whose claim was taken over
    /// changes nothing.
    pub async fn record_relayed(
        &self,
        progress: &[Progress],
        done: &[i64],
    ) -> Result<Vec<Recorded>, StoreError> {
        let mut sorted: Vec<&Progress> = progress.iter().collect();
        sorted.sort_by_key(|p| p.plan);
        // One statement, so that whoever appends to these streams waits for no round trip of ours. Locked in id order:
        // stages append to several streams in that order, and the two would else wait for each other.
        let recorded = dat_fault::around(
            "relay.record",
            sqlx::query!(
                r#"WITH told AS MATERIALIZED (
                     SELECT s.plan_id, s.plan_version, n.epoch, n.confirmed, n.until, n.kept
                     FROM event_stream s
                     JOIN UNNEST($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::timestamptz[], $6::bool[])
                          AS n (plan_id, plan_version, epoch, confirmed, until, kept) USING (plan_id, plan_version)
                     ORDER BY s.plan_id, s.plan_version
                     FOR UPDATE OF s),
                 recorded AS (
                     UPDATE event_stream AS s
                     SET relayed = greatest(s.relayed, told.confirmed),
                         relay_until = CASE WHEN greatest(s.relayed, told.confirmed) = s.last_sequence
                                            THEN to_timestamp(0) ELSE told.until END,
                         relay_owner = CASE WHEN greatest(s.relayed, told.confirmed) < s.last_sequence AND told.kept
                                            THEN s.relay_owner END
                     FROM told
                     WHERE s.plan_id = told.plan_id AND s.plan_version = told.plan_version
                       AND s.relay_epoch = told.epoch
                     RETURNING s.plan_id, s.plan_version, s.relay_epoch, s.relayed, s.last_sequence, told.until, told.kept),
                 again AS (
                     INSERT INTO relay_due (plan_ids, plan_versions, due)
                     SELECT array_agg(plan_id), array_agg(plan_version), min(until) FROM recorded
                     WHERE relayed < last_sequence AND NOT kept HAVING count(*) > 0),
                 done AS (DELETE FROM relay_due WHERE due_id = ANY($7))
                 SELECT plan_id AS "plan_id!", plan_version AS "plan_version!", relay_epoch AS "relay_epoch!",
                        relayed AS "relayed!", last_sequence AS "last_sequence!"
                 FROM recorded"#,
                &sorted.iter().map(|p| p.plan.plan_id).collect::<Vec<Uuid>>(),
                &sorted.iter().map(|p| p.plan.plan_version).collect::<Vec<i32>>(),
                &sorted.iter().map(|p| p.epoch).collect::<Vec<_>>(),
                &sorted.iter().map(|p| p.confirmed).collect::<Vec<_>>(),
                &sorted.iter().map(|p| p.until).collect::<Vec<_>>(),
                &sorted.iter().map(|p| p.kept).collect::<Vec<_>>(),
                done,
            )
            .fetch_all(self.pool()),
        )
        .await?;
        Ok(recorded
            .into_iter()
            .map(|row| Recorded {
                plan: PlanKey::new(row.plan_id, row.plan_version),
                epoch: row.relay_epoch,
                relayed: row.relayed,
                last_sequence: row.last_sequence,
            })
            .collect())
    }

    /// Notes as due whatever is behind, and was left by a version of DAT that did not. Reads every stream.
    pub async fn find_strays(&self, now: DateTime<Utc>) -> Result<u64, StoreError> {
        let noted = dat_fault::around(
            "relay.strays",
            sqlx::query!(
                "INSERT INTO relay_due (plan_ids, plan_versions, due)
             SELECT ARRAY[s.plan_id], ARRAY[s.plan_version], $1 FROM event_stream s
             WHERE s.relayed < s.last_sequence AND s.relay_until <= $1
               AND NOT EXISTS (SELECT FROM relay_due d WHERE s.plan_id = ANY(d.plan_ids))",
                now,
            )
            .execute(self.pool()),
        )
        .await?;
        Ok(noted.rows_affected())
    }

    /// How many events wait to be published, and since when the oldest of them waits.
    pub async fn relay_lag(&self) -> Result<(i64, Option<DateTime<Utc>>), StoreError> {
        let row = sqlx::query!(
            r#"SELECT coalesce(sum(s.last_sequence - s.relayed), 0)::bigint AS "events!", min(e.at) AS oldest
             FROM (SELECT DISTINCT k.plan_id, k.plan_version
                   FROM relay_due d, UNNEST(d.plan_ids, d.plan_versions) AS k (plan_id, plan_version)) AS due
             JOIN event_stream s USING (plan_id, plan_version)
             JOIN execution_event e ON e.partition_date = s.partition_date AND e.plan_id = s.plan_id
              AND e.plan_version = s.plan_version AND e.sequence = s.relayed + 1
             WHERE s.relayed < s.last_sequence"#
        )
        .fetch_one(self.pool())
        .await?;
        Ok((row.events, row.oldest))
    }
}
