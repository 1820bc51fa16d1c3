//! Sealing: what grew in the log since it was last sealed, under the next checkpoint.
//!
//! Whoever writes to the log leaves a row in `stream_growth` and waits for nobody; whoever seals holds the turn (one row,
//! never waited for) until it commits, and locks no stream but the control stream, where the checkpoint is announced.
//! A sealer that stalls loses its session, and with it the turn and all it wrote; two can never both commit.

use std::collections::BTreeSet;

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::checkpoint::{Checkpoint, FORMAT, LEAVES, Leaf, LogHash, Tree};
use dat_plan::event::{EventKind, NewEvent};
use dat_plan::signing::SigningKey;
use serde_json::Value;
use uuid::Uuid;

use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::event_log;
use crate::pool::Store;

/// Transactions whose growth one checkpoint seals, at most.
const TRANSACTIONS: i64 = 2_000;

/// A checkpoint that was just made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewCheckpoint {
    /// It.
    pub checkpoint: Checkpoint,
    /// More grew than it holds: the next is due at once.
    pub more: bool,
}

impl Store {
    /// Whether anything grew that is not sealed.
    pub async fn has_grown(&self) -> Result<bool, StoreError> {
        let grown = sqlx::query_scalar!(r#"SELECT EXISTS (SELECT FROM stream_growth) AS "grown!""#);
        Ok(grown.fetch_one(self.pool()).await?)
    }

    /// Seals what grew: the next checkpoint of the chain, its leaves, and the event that publishes it, in one
    /// transaction. Nothing where nothing grew, where another worker is sealing, or where none is due yet; the next is
    /// due at `next`. A checkpoint's own event is no growth, and is sealed with what grows next.
    pub async fn seal(
        &self,
        origin: &str,
        key: Option<&SigningKey>,
        next: DateTime<Utc>,
        now: DateTime<Utc>,
    ) -> Result<Option<NewCheckpoint>, StoreError> {
        let mut tx = self.begin().await?;
        let turn =
            sqlx::query!("SELECT FROM checkpoint_turn WHERE next_at <= $1 FOR UPDATE SKIP LOCKED", now)
                .fetch_optional(&mut *tx)
                .await?;
        if turn.is_none() {
            return Ok(None);
        }
        let Some(growth) = Growth::take(&mut tx).await? else { return Ok(None) };
        let leaves = growth.leaves(&mut tx).await?;
        let due = if growth.more { now } else { next };
        sqlx::query!("UPDATE checkpoint_turn SET next_at = $1", due).execute(&mut *tx).await?;
        let checkpoint =
            if leaves.is_empty() { None } else { Some(add(&mut tx, origin, key, &leaves, now).await?) };
        dat_fault::around("checkpoint.seal", tx.commit()).await?;
        Ok(checkpoint.map(|checkpoint| NewCheckpoint { checkpoint, more: growth.more }))
    }

    /// A checkpoint by its number, or the last.
    pub async fn checkpoint(&self, number: Option<i64>) -> Result<Option<Checkpoint>, StoreError> {
        let row = match number {
            Some(number) => {
                sqlx::query_as!(Row, "SELECT * FROM audit_checkpoint WHERE number = $1", number)
                    .fetch_optional(self.pool())
                    .await?
            }
            None => last(&mut *self.begin().await?).await?,
        };
        row.map(Row::read).transpose()
    }
}

/// What transactions wrote to the log and nobody sealed.
struct Growth {
    streams: BTreeSet<PlanKey>,
    more: bool,
}

impl Growth {
    /// Takes the longest waiting, for about as many streams as a checkpoint has leaves.
    async fn take(conn: &mut PgConnection) -> Result<Option<Self>, StoreError> {
        let rows = sqlx::query!(
            "SELECT growth_id, plan_ids, plan_versions FROM stream_growth ORDER BY growth_id LIMIT $1",
            TRANSACTIONS,
        )
        .fetch_all(&mut *conn)
        .await?;
        let found = rows.len();
        let (mut taken, mut streams) = (Vec::with_capacity(found), BTreeSet::new());
        for row in rows {
            // The control stream is a leaf of every checkpoint.
            if !taken.is_empty() && streams.len() + row.plan_ids.len() >= LEAVES {
                break;
            }
            taken.push(row.growth_id);
            let keys = row.plan_ids.into_iter().zip(row.plan_versions);
            streams.extend(keys.map(|(id, version)| PlanKey::new(id, version)));
        }
        if taken.is_empty() {
            return Ok(None);
        }
        let more = taken.len() < found || i64::try_from(found) == Ok(TRANSACTIONS);
        sqlx::query!("DELETE FROM stream_growth WHERE growth_id = ANY($1)", &taken).execute(conn).await?;
        Ok(Some(Self { streams, more }))
    }

    /// Where those streams end now, in the order of their ids, but for what a leaf says already; and where the control
    /// stream does, unless there is nothing else.
    async fn leaves(&self, conn: &mut PgConnection) -> Result<Vec<Leaf>, StoreError> {
        let keys: BTreeSet<PlanKey> = self.streams.iter().copied().chain([PlanKey::CONTROL]).collect();
        let leaves = sqlx::query_as!(
            LeafRow,
            "SELECT s.plan_id, s.plan_version, s.last_sequence, s.last_hash
             FROM event_stream s
             JOIN UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version) USING (plan_id, plan_version)
             WHERE s.last_sequence > 0
               AND NOT EXISTS (SELECT FROM audit_leaf l
                               WHERE l.plan_id = s.plan_id AND l.plan_version = s.plan_version
                                 AND l.last_sequence >= s.last_sequence)
             ORDER BY s.plan_id, s.plan_version",
            &keys.iter().map(|k| k.plan_id).collect::<Vec<_>>(),
            &keys.iter().map(|k| k.plan_version).collect::<Vec<_>>(),
        )
        .fetch_all(conn)
        .await?
        .into_iter()
        .map(LeafRow::read)
        .collect::<Result<Vec<_>, StoreError>>()?;
        let grew = leaves.iter().any(|leaf| self.streams.contains(&leaf.plan()));
        Ok(if grew { leaves } else { Vec::new() })
    }
}

/// Writes the next checkpoint over leaves, and its event.
async fn add(
    conn: &mut PgConnection,
    origin: &str,
    key: Option<&SigningKey>,
    leaves: &[Leaf],
    now: DateTime<Utc>,
) -> Result<Checkpoint, StoreError> {
    let before = last(conn).await?.map(Row::read).transpose()?;
    let previous = before.as_ref().map_or(Ok(LogHash::START), Checkpoint::hash)?;
    let mut checkpoint = Checkpoint {
        format: FORMAT,
        origin: origin.to_owned(),
        number: before.as_ref().map_or(1, |before| before.number + 1),
        // Clocks of workers differ.
        at: before.map_or(now, |before| before.at.max(now)),
        leaves: u32::try_from(leaves.len()).unwrap_or(u32::MAX),
        root: Tree::of(leaves)?.root(),
        previous,
        key_id: None,
        signature: None,
    };
    // As the database keeps it: in microseconds.
    checkpoint.at = DateTime::from_timestamp_micros(checkpoint.at.timestamp_micros()).unwrap_or(now);
    if let Some(key) = key {
        checkpoint.sign(key).map_err(|fault| StoreError::Corrupt(fault.to_string()))?;
    }
    sqlx::query!(
        "INSERT INTO audit_checkpoint (number, format, origin, at, leaves, root, previous, key_id, signature)
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
        checkpoint.number,
        i32::try_from(checkpoint.format).unwrap_or(i32::MAX),
        checkpoint.origin,
        checkpoint.at,
        i32::try_from(leaves.len()).unwrap_or(i32::MAX),
        checkpoint.root.0.as_slice(),
        checkpoint.previous.0.as_slice(),
        checkpoint.key_id,
        checkpoint.signature,
    )
    .execute(&mut *conn)
    .await?;
    sqlx::query!(
        "INSERT INTO audit_leaf (number, place, plan_id, plan_version, last_sequence, last_hash)
         SELECT $1, place - 1, plan_id, plan_version, last_sequence, last_hash
         FROM UNNEST($2::uuid[], $3::integer[], $4::bigint[], $5::bytea[]) WITH ORDINALITY
              AS n (plan_id, plan_version, last_sequence, last_hash, place)",
        checkpoint.number,
        &leaves.iter().map(|leaf| leaf.plan_id).collect::<Vec<_>>(),
        &leaves.iter().map(|leaf| leaf.plan_version).collect::<Vec<_>>(),
        &leaves.iter().map(|leaf| leaf.last_sequence).collect::<Vec<_>>(),
        &leaves.iter().map(|leaf| leaf.last_hash.0.to_vec()).collect::<Vec<_>>(),
    )
    .execute(&mut *conn)
    .await?;
    let mut event = NewEvent::of_plan(PlanKey::CONTROL, "", EventKind::Checkpoint, now);
    if let Value::Object(data) = checkpoint.value() {
        event.data = data;
    }
    event_log::append_unnoted(conn, &[event]).await?;
    Ok(checkpoint)
}

/// A checkpoint's row.
pub(crate) struct Row {
    number: i64,
    format: i32,
    origin: String,
    at: DateTime<Utc>,
    leaves: i32,
    root: Vec<u8>,
    previous: Vec<u8>,
    key_id: Option<String>,
    signature: Option<String>,
}

impl Row {
    /// What it says.
    pub(crate) fn read(self) -> Result<Checkpoint, StoreError> {
        let number = |n: i32| {
            u32::try_from(n)
                .map_err(|_| StoreError::Corrupt(format!("checkpoint {} has a number {n}", self.number)))
        };
        Ok(Checkpoint {
            format: number(self.format)?,
            number: self.number,
            at: self.at,
            leaves: number(self.leaves)?,
            root: hash(&self.root)?,
            previous: hash(&self.previous)?,
            origin: self.origin,
            key_id: self.key_id,
            signature: self.signature,
        })
    }
}

/// The last checkpoint.
async fn last(conn: &mut PgConnection) -> Result<Option<Row>, StoreError> {
    Ok(sqlx::query_as!(Row, "SELECT * FROM audit_checkpoint ORDER BY number DESC LIMIT 1")
        .fetch_optional(conn)
        .await?)
}

/// The checkpoints after one, in the order of the chain.
pub(crate) async fn page(conn: &mut PgConnection, after: i64, limit: i64) -> Result<Vec<Row>, StoreError> {
    let rows = sqlx::query_as!(
        Row,
        "SELECT * FROM audit_checkpoint WHERE number > $1 ORDER BY number LIMIT $2",
        after,
        limit,
    );
    Ok(rows.fetch_all(conn).await?)
}

/// The leaves of a checkpoint, in their order.
pub(crate) async fn leaves(conn: &mut PgConnection, number: i64) -> Result<Vec<Leaf>, StoreError> {
    let rows = sqlx::query_as!(
        LeafRow,
        "SELECT plan_id, plan_version, last_sequence, last_hash FROM audit_leaf WHERE number = $1 ORDER BY place",
        number,
    );
    rows.fetch_all(conn).await?.into_iter().map(LeafRow::read).collect()
}

/// A leaf's row, or the head that becomes one.
struct LeafRow {
    plan_id: Uuid,
    plan_version: i32,
    last_sequence: i64,
    last_hash: Vec<u8>,
}

impl LeafRow {
    fn read(self) -> Result<Leaf, StoreError> {
        let Self { plan_id, plan_version, last_sequence, last_hash } = self;
        Ok(Leaf { plan_id, plan_version, last_sequence, last_hash: hash(&last_hash)? })
    }
}

/// A hash of a row; the database lets none in that is not 32 bytes.
pub(crate) fn hash(bytes: &[u8]) -> Result<LogHash, StoreError> {
    LogHash::of(bytes).ok_or_else(|| StoreError::Corrupt("a hash is not of 32 bytes".to_owned()))
}
