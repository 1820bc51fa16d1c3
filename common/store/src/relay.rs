//! The relay's view of the log: claim streams that are behind, read what is next, record how far it got.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use dat_plan::PlanKey;
use dat_plan::event::LoggedEvent;
use uuid::Uuid;

use crate::error::StoreError;
use crate::pool::Store;

/// A stream that this relay may publish from until its claim runs out.
#[derive(Debug, Clone)]
pub struct ClaimedStream {
    /// The stream.
    pub plan: PlanKey,
    /// The trace context of the submission; empty for the control stream.
    pub traceparent: String,
    /// What comes next, in order.
    pub events: Vec<LoggedEvent>,
    epoch: i64,
}

/// How far a claimed stream was published.
#[derive(Debug, Clone)]
pub struct Progress {
    stream: ClaimedStream,
    confirmed: i64,
    again_at: DateTime<Utc>,
}

impl ClaimedStream {
    /// The first `count` events were confirmed by the broker; the stream may be claimed again from `again_at`.
    #[must_use]
    pub fn confirmed(self, count: usize, again_at: DateTime<Utc>) -> Progress {
        let confirmed = count.checked_sub(1).and_then(|last| self.events.get(last)).map_or(0, |e| e.sequence);
        Progress { stream: self, confirmed, again_at }
    }
}

impl Store {
    /// Claims up to `streams` streams that are behind, those first that waited longest, and reads up to `events` of
    /// each. The claim runs out after `lease`, so that a relay that died strands nothing.
    pub async fn claim_streams(
        &self,
        streams: i64,
        events: i64,
        lease: TimeDelta,
        now: DateTime<Utc>,
    ) -> Result<Vec<ClaimedStream>, StoreError> {
        // One statement: whoever is woken for what another relay has taken costs the database little.
        let rows = dat_fault::around("relay.claim", sqlx::query!(
            r#"WITH behind AS MATERIALIZED (
                 SELECT plan_id, plan_version FROM event_stream
                 WHERE relayed < last_sequence AND relay_until <= $1
                 ORDER BY relay_until LIMIT $2 FOR UPDATE SKIP LOCKED),
             claimed AS (
                 UPDATE event_stream AS s SET relay_epoch = relay_epoch + 1, relay_until = $3
                 FROM behind WHERE s.plan_id = behind.plan_id AND s.plan_version = behind.plan_version
                 RETURNING s.plan_id, s.plan_version, s.partition_date, s.relayed, s.relay_epoch)
             SELECT k.plan_id AS "stream_id!", k.plan_version AS "stream_version!", k.relay_epoch AS "relay_epoch!",
                    e.sequence AS "sequence?", e.kind AS "kind?", e.at AS "at?", e.data AS "data?",
                    coalesce(p.traceparent, '') AS "traceparent!"
             FROM claimed k
             LEFT JOIN execution_event e
               ON e.partition_date = k.partition_date AND e.plan_id = k.plan_id
              AND e.plan_version = k.plan_version AND e.sequence > k.relayed AND e.sequence <= k.relayed + $4
             LEFT JOIN execution_plan p ON p.plan_id = k.plan_id AND p.plan_version = k.plan_version
             ORDER BY k.plan_id, k.plan_version, e.sequence"#,
            now,
            streams,
            now + lease,
            events,
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

    /// Records progress and gives the claims back. A relay whose claim was taken over changes nothing.
    pub async fn record_relayed(&self, progress: &[Progress]) -> Result<u64, StoreError> {
        let mut sorted: Vec<&Progress> = progress.iter().collect();
        sorted.sort_by_key(|p| p.stream.plan);
        let ids: Vec<Uuid> = sorted.iter().map(|p| p.stream.plan.plan_id).collect();
        let versions: Vec<i32> = sorted.iter().map(|p| p.stream.plan.plan_version).collect();
        // One statement, so that whoever appends to these streams waits for no round trip of ours. Locked in id order:
        // stages append to several streams in that order, and the two would else wait for each other.
        let recorded = dat_fault::around(
            "relay.record",
            sqlx::query!(
                "WITH told AS MATERIALIZED (
                     SELECT s.plan_id, s.plan_version, n.epoch, n.confirmed, n.again_at
                     FROM event_stream s
                     JOIN UNNEST($1::uuid[], $2::integer[], $3::bigint[], $4::bigint[], $5::timestamptz[])
                          AS n (plan_id, plan_version, epoch, confirmed, again_at) USING (plan_id, plan_version)
                     ORDER BY s.plan_id, s.plan_version
                     FOR UPDATE OF s)
                 UPDATE event_stream AS s
                 SET relayed = greatest(s.relayed, told.confirmed), relay_until = told.again_at
                 FROM told
                 WHERE s.plan_id = told.plan_id AND s.plan_version = told.plan_version AND s.relay_epoch = told.epoch",
                &ids,
                &versions,
                &sorted.iter().map(|p| p.stream.epoch).collect::<Vec<_>>(),
                &sorted.iter().map(|p| p.confirmed).collect::<Vec<_>>(),
                &sorted.iter().map(|p| p.again_at).collect::<Vec<_>>(),
            )
            .execute(self.pool()),
        )
        .await?;
        Ok(recorded.rows_affected())
    }

    /// How many events wait to be published, and since when the oldest of them waits.
    pub async fn relay_lag(&self) -> Result<(i64, Option<DateTime<Utc>>), StoreError> {
        let row = sqlx::query!(
            r#"SELECT coalesce(sum(last_sequence - relayed), 0)::bigint AS "events!", min(e.at) AS oldest
             FROM event_stream s
             JOIN execution_event e ON e.partition_date = s.partition_date AND e.plan_id = s.plan_id
              AND e.plan_version = s.plan_version AND e.sequence = s.relayed + 1
             WHERE relayed < last_sequence"#
        )
        .fetch_one(self.pool())
        .await?;
        Ok((row.events, row.oldest))
    }
}
