//! Writing the log: sequence and chain, in the transaction that the events describe.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use dat_plan::PlanKey;
use dat_plan::event::{CHAIN_START, LoggedEvent, NewEvent};
use serde_json::Value;
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::handover::{RelayPort, Written};
use crate::relay::ClaimedStream;

/// Opens the streams of new plan versions, each with the trace context of its submission.
pub(crate) async fn open_streams(
    conn: &mut PgConnection,
    plans: &[(PlanKey, String)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO event_stream
             (plan_id, plan_version, traceparent, partition_date, last_sequence, last_hash, relay_until)
         SELECT plan_id, plan_version, traceparent, $4, 0, $5, to_timestamp(0)
         FROM UNNEST($1::uuid[], $2::integer[], $3::text[]) AS n (plan_id, plan_version, traceparent)",
        &plans.iter().map(|(key, _)| key.plan_id).collect::<Vec<_>>(),
        &plans.iter().map(|(key, _)| key.plan_version).collect::<Vec<_>>(),
        &plans.iter().map(|(_, traceparent)| traceparent.clone()).collect::<Vec<_>>(),
        now.date_naive(),
        CHAIN_START.as_slice(),
    )
    .execute(conn)
    .await?;
    Ok(())
}

/// Appends events, each stream in the order given. The last locks of a transaction, in id order.
pub(crate) async fn append(conn: &mut PgConnection, events: &[NewEvent]) -> Result<(), StoreError> {
    write(conn, events, true).await
}

/// As [`append`], and no checkpoint is made because of it.
pub(crate) async fn append_unnoted(conn: &mut PgConnection, events: &[NewEvent]) -> Result<(), StoreError> {
    write(conn, events, false).await
}

async fn write(conn: &mut PgConnection, events: &[NewEvent], noted: bool) -> Result<(), StoreError> {
    let Some(at) = events.iter().map(|event| event.at).max() else { return Ok(()) };
    let mut streams: BTreeMap<PlanKey, Vec<&NewEvent>> = BTreeMap::new();
    for event in events {
        streams.entry(event.plan).or_default().push(event);
    }
    let heads = sqlx::query_as!(
        Head,
        "SELECT s.plan_id, s.plan_version, s.partition_date, s.last_sequence, s.last_hash, s.relayed, s.relay_epoch,
                s.relay_owner, s.relay_until, s.traceparent
         FROM event_stream s
         JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
         ORDER BY s.plan_id, s.plan_version
         FOR UPDATE OF s",
        &streams.keys().map(|k| k.plan_id).collect::<Vec<_>>(),
        &streams.keys().map(|k| k.plan_version).collect::<Vec<_>>(),
    )
    .fetch_all(&mut *conn)
    .await?;
    if heads.len() != streams.len() {
        return Err(StoreError::Corrupt("an event has no stream: its plan is not registered".to_owned()));
    }

    let relay = conn.handover().map(|handover| handover.port.clone());
    let mut rows = Rows::default();
    let mut ends = Ends::default();
    let mut handed = Vec::new();
    for mut head in heads {
        let plan = PlanKey::new(head.plan_id, head.plan_version);
        let ours = relay.as_ref().is_some_and(|relay| head.claim(relay, at));
        let mut written = Vec::new();
        for event in streams.get(&plan).into_iter().flatten() {
            head.last_sequence += 1;
            let logged = LoggedEvent {
                plan,
                sequence: head.last_sequence,
                kind: event.kind.routing_key(),
                at: event.at,
                data: Value::Object(event.full_data()),
            };
            head.last_hash = logged.chained(&head.last_hash)?.to_vec();
            rows.push(&head, &logged);
            if ours {
                written.push(logged);
            }
        }
        if ours {
            handed.push(head.handed(plan, written));
        }
        ends.push(head);
    }
    let due = match &relay {
        Some(relay) => rows.write_claimed(conn, ends, noted, relay, at).await?,
        None => rows.write(conn, ends, noted, at).await?,
    };
    if let Some(handover) = conn.handover().filter(|_| !handed.is_empty()) {
        let whole = handed.len() == streams.len();
        handover.push(Written { due: due.filter(|_| whole), streams: handed });
    }
    Ok(())
}

/// Where a stream ends, and who publishes it.
struct Head {
    plan_id: Uuid,
    plan_version: i32,
    partition_date: NaiveDate,
    last_sequence: i64,
    last_hash: Vec<u8>,
    relayed: i64,
    relay_epoch: i64,
    relay_owner: Option<Uuid>,
    relay_until: DateTime<Utc>,
    traceparent: String,
}

impl Head {
    /// Whether this process's relay holds the stream from here on: it did before, or everything was published and nobody
    /// else does.
    fn claim(&mut self, relay: &RelayPort, at: DateTime<Utc>) -> bool {
        let held = self.relay_owner == Some(relay.owner);
        if !held {
            if self.relayed < self.last_sequence || self.relay_until > at {
                return false;
            }
            self.relay_epoch += 1;
            self.relay_owner = Some(relay.owner);
        }
        self.relay_until = self.relay_until.max(at + relay.lease);
        true
    }

    fn handed(&self, plan: PlanKey, events: Vec<LoggedEvent>) -> ClaimedStream {
        ClaimedStream {
            plan,
            traceparent: self.traceparent.clone(),
            events,
            relayed: self.relayed,
            last_sequence: self.last_sequence,
            epoch: self.relay_epoch,
        }
    }
}

/// Where streams end once it is written.
#[derive(Default)]
struct Ends {
    ids: Vec<Uuid>,
    versions: Vec<i32>,
    sequences: Vec<i64>,
    hashes: Vec<Vec<u8>>,
    epochs: Vec<i64>,
    owners: Vec<Option<Uuid>>,
    untils: Vec<DateTime<Utc>>,
}

impl Ends {
    fn push(&mut self, head: Head) {
        self.ids.push(head.plan_id);
        self.versions.push(head.plan_version);
        self.sequences.push(head.last_sequence);
        self.hashes.push(head.last_hash);
        self.epochs.push(head.relay_epoch);
        self.owners.push(head.relay_owner);
        self.untils.push(head.relay_until);
    }
}

#[derive(Default)]
struct Rows {
    dates: Vec<NaiveDate>,
    ids: Vec<Uuid>,
    versions: Vec<i32>,
    sequences: Vec<i64>,
    kinds: Vec<String>,
    ats: Vec<DateTime<Utc>>,
    data: Vec<String>,
    hashes: Vec<Vec<u8>>,
}

impl Rows {
    fn push(&mut self, head: &Head, event: &LoggedEvent) {
        self.dates.push(head.partition_date);
        self.ids.push(head.plan_id);
        self.versions.push(head.plan_version);
        self.sequences.push(event.sequence);
        self.kinds.push(event.kind.clone());
        self.ats.push(event.at);
        self.data.push(event.data.to_string());
        self.hashes.push(head.last_hash.clone());
    }

    /// One statement: the events, the heads, and what is to be sealed and published. The latter two are a row a
    /// transaction, whatever it wrote to: no index of streams grows with every event, and whoever seals or publishes is
    /// in nobody's way.
    async fn write_claimed(
        &self,
        conn: &mut PgConnection,
        ends: Ends,
        noted: bool,
        relay: &RelayPort,
        at: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        let due = sqlx::query_scalar!(
            "WITH logged AS (
                 INSERT INTO execution_event
                     (partition_date, plan_id, plan_version, sequence, kind, at, data, hash)
                 SELECT n.partition_date, n.plan_id, n.plan_version, n.sequence, n.kind, n.at, n.data::jsonb, n.hash
                 FROM UNNEST($1::date[], $2::uuid[], $3::integer[], $4::bigint[], $5::text[],
                             $6::timestamptz[], $7::text[], $8::bytea[])
                      AS n (partition_date, plan_id, plan_version, sequence, kind, at, data, hash)),
             grown AS (
                 INSERT INTO stream_growth (plan_ids, plan_versions)
                 SELECT $9::uuid[], $10::integer[] WHERE $16),
             heads AS (
                 UPDATE event_stream AS s
                 SET last_sequence = n.last_sequence, last_hash = n.last_hash, relay_epoch = n.relay_epoch,
                     relay_owner = n.relay_owner, relay_until = n.relay_until
                 FROM UNNEST($9::uuid[], $10::integer[], $11::bigint[], $12::bytea[], $13::bigint[], $14::uuid[],
                             $15::timestamptz[])
                      AS n (plan_id, plan_version, last_sequence, last_hash, relay_epoch, relay_owner, relay_until)
                 WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version)
             INSERT INTO relay_due (plan_ids, plan_versions, due) VALUES ($9::uuid[], $10::integer[], $17)
             RETURNING due_id",
            &self.dates,
            &self.ids,
            &self.versions,
            &self.sequences,
            &self.kinds,
            &self.ats,
            &self.data,
            &self.hashes,
            &ends.ids,
            &ends.versions,
            &ends.sequences,
            &ends.hashes,
            &ends.epochs,
            &ends.owners as &[Option<Uuid>],
            &ends.untils,
            noted,
            at + relay.lease,
        )
        .fetch_one(conn)
        .await?;
        Ok(Some(due))
    }

    /// As [`Rows::write_claimed`], where this process has no relay: any may look at once. An operator's login may not
    /// change who publishes.
    async fn write(
        &self,
        conn: &mut PgConnection,
        ends: Ends,
        noted: bool,
        at: DateTime<Utc>,
    ) -> Result<Option<i64>, StoreError> {
        sqlx::query!(
            "WITH logged AS (
                 INSERT INTO execution_event
                     (partition_date, plan_id, plan_version, sequence, kind, at, data, hash)
                 SELECT n.partition_date, n.plan_id, n.plan_version, n.sequence, n.kind, n.at, n.data::jsonb, n.hash
                 FROM UNNEST($1::date[], $2::uuid[], $3::integer[], $4::bigint[], $5::text[],
                             $6::timestamptz[], $7::text[], $8::bytea[])
                      AS n (partition_date, plan_id, plan_version, sequence, kind, at, data, hash)),
             grown AS (
                 INSERT INTO stream_growth (plan_ids, plan_versions)
                 SELECT $9::uuid[], $10::integer[] WHERE $13),
             due AS (
                 INSERT INTO relay_due (plan_ids, plan_versions, due) VALUES ($9::uuid[], $10::integer[], $14))
             UPDATE event_stream AS s SET last_sequence = n.last_sequence, last_hash = n.last_hash
             FROM UNNEST($9::uuid[], $10::integer[], $11::bigint[], $12::bytea[])
                  AS n (plan_id, plan_version, last_sequence, last_hash)
             WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version",
            &self.dates,
            &self.ids,
            &self.versions,
            &self.sequences,
            &self.kinds,
            &self.ats,
            &self.data,
            &self.hashes,
            &ends.ids,
            &ends.versions,
            &ends.sequences,
            &ends.hashes,
            noted,
            at,
        )
        .execute(conn)
        .await?;
        Ok(None)
    }
}
