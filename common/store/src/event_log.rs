//! Writing the log: sequence and chain, in the transaction that the events describe.

use std::collections::BTreeMap;

use chrono::{DateTime, NaiveDate, Utc};
use dat_plan::PlanKey;
use dat_plan::event::{CHAIN_START, LoggedEvent, NewEvent};
use serde_json::Value;
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;

/// Opens the streams of new plan versions.
pub(crate) async fn open_streams(
    conn: &mut PgConnection,
    plans: &[(PlanKey, NaiveDate)],
    now: DateTime<Utc>,
) -> Result<(), StoreError> {
    sqlx::query!(
        "INSERT INTO event_stream (plan_id, plan_version, partition_date, last_sequence, last_hash, relay_until)
         SELECT plan_id, plan_version, partition_date, 0, $4, $5
         FROM UNNEST($1::uuid[], $2::integer[], $3::date[]) AS n (plan_id, plan_version, partition_date)",
        &plans.iter().map(|(key, _)| key.plan_id).collect::<Vec<_>>(),
        &plans.iter().map(|(key, _)| key.plan_version).collect::<Vec<_>>(),
        &plans.iter().map(|(_, date)| *date).collect::<Vec<_>>(),
        CHAIN_START.as_slice(),
        now,
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
    if events.is_empty() {
        return Ok(());
    }
    let mut streams: BTreeMap<PlanKey, Vec<&NewEvent>> = BTreeMap::new();
    for event in events {
        streams.entry(event.plan).or_default().push(event);
    }
    let heads = sqlx::query!(
        "SELECT s.plan_id, s.plan_version, s.partition_date, s.last_sequence, s.last_hash
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

    let mut rows = Columns::default();
    let mut new_heads: Vec<(Uuid, i32, i64, Vec<u8>)> = Vec::with_capacity(heads.len());
    for head in heads {
        let plan = PlanKey::new(head.plan_id, head.plan_version);
        let (mut sequence, mut hash) = (head.last_sequence, head.last_hash);
        for event in streams.get(&plan).into_iter().flatten() {
            sequence += 1;
            let logged = LoggedEvent {
                plan,
                sequence,
                kind: event.kind.routing_key(),
                at: event.at,
                data: Value::Object(event.full_data()),
            };
            hash = logged.chained(&hash)?.to_vec();
            rows.push(head.partition_date, logged, hash.clone());
        }
        new_heads.push((head.plan_id, head.plan_version, sequence, hash));
    }

    sqlx::query!(
        "INSERT INTO execution_event (partition_date, plan_id, plan_version, sequence, kind, at, data, hash)
         SELECT * FROM UNNEST($1::date[], $2::uuid[], $3::integer[], $4::bigint[], $5::text[],
                              $6::timestamptz[], $7::jsonb[], $8::bytea[])",
        &rows.dates,
        &rows.ids,
        &rows.versions,
        &rows.sequences,
        &rows.kinds,
        &rows.ats,
        &rows.data,
        &rows.hashes,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        // What is to be sealed is noted in a row a transaction, whatever it wrote to: no index of streams grows with
        // every event, and who seals is in nobody's way.
        "WITH grown AS (
             INSERT INTO stream_growth (plan_ids, plan_versions)
             SELECT $1::uuid[], $2::integer[] WHERE $5)
         UPDATE event_stream AS s SET last_sequence = n.last_sequence, last_hash = n.last_hash
         FROM UNNEST($1::uuid[], $2::integer[], $3::bigint[], $4::bytea[])
              AS n (plan_id, plan_version, last_sequence, last_hash)
         WHERE s.plan_id = n.plan_id AND s.plan_version = n.plan_version",
        &new_heads.iter().map(|h| h.0).collect::<Vec<_>>(),
        &new_heads.iter().map(|h| h.1).collect::<Vec<_>>(),
        &new_heads.iter().map(|h| h.2).collect::<Vec<_>>(),
        &new_heads.iter().map(|h| h.3.clone()).collect::<Vec<_>>(),
        noted,
    )
    .execute(conn)
    .await?;
    Ok(())
}

#[derive(Default)]
struct Columns {
    dates: Vec<NaiveDate>,
    ids: Vec<Uuid>,
    versions: Vec<i32>,
    sequences: Vec<i64>,
    kinds: Vec<String>,
    ats: Vec<DateTime<Utc>>,
    data: Vec<Value>,
    hashes: Vec<Vec<u8>>,
}

impl Columns {
    fn push(&mut self, date: NaiveDate, event: LoggedEvent, hash: Vec<u8>) {
        self.dates.push(date);
        self.ids.push(event.plan.plan_id);
        self.versions.push(event.plan.plan_version);
        self.sequences.push(event.sequence);
        self.kinds.push(event.kind);
        self.ats.push(event.at);
        self.data.push(event.data);
        self.hashes.push(hash);
    }
}
