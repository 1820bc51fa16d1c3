//! Exporting: all that the log has of a plan version, with the proofs that checkpoints sealed it.
//!
//! **Owns** the gathering of an export's parts as of one moment. **May be called** by `dat audit export` and by whoever
//! archives. **Must never** judge them: what a file proves is judged by [`dat_plan::export`], without a database.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use dat_plan::PlanKey;
use dat_plan::checkpoint::{Checkpoint, Leaf, LogHash, Tree};
use dat_plan::event::LoggedEvent;
use dat_plan::export::{Export, ExportedEvent, ExportedSeal, FORMAT};

use crate::checkpoint;
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;

/// Trees that are kept for the next plan: neighbours in the log were sealed by the same checkpoints.
const TREES: usize = 32;

/// Exports plans one after the other.
#[derive(Debug)]
pub struct Exporter {
    store: Store,
    trees: BTreeMap<i64, (Checkpoint, Tree)>,
}

impl Store {
    /// Exports plans of this store.
    #[must_use]
    pub fn exporter(&self) -> Exporter {
        Exporter { store: self.clone(), trees: BTreeMap::new() }
    }
}

impl Exporter {
    /// All that the log has of a plan version, as of one moment; none where it was never registered.
    pub async fn export(&mut self, plan: PlanKey, now: DateTime<Utc>) -> Result<Option<Export>, StoreError> {
        let mut tx = self.store.begin_snapshot().await?;
        let row = sqlx::query!(
            "SELECT p.document, s.partition_date FROM execution_plan p JOIN event_stream s USING (plan_id, plan_version)
             WHERE p.plan_id = $1 AND p.plan_version = $2",
            plan.plan_id,
            plan.plan_version,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let document = serde_json::from_slice(&row.document).map_err(|error| {
            StoreError::Corrupt(format!("the document of {plan} cannot be read: {error}"))
        })?;
        let verdicts = sqlx::query_scalar!(
            "SELECT verdict FROM plan_verdict WHERE plan_id = $1 AND plan_version = $2
             ORDER BY received_at, decision_id, outcome",
            plan.plan_id,
            plan.plan_version,
        )
        .fetch_all(&mut *tx)
        .await?;
        let events = sqlx::query!(
            "SELECT sequence, kind, at, data, hash FROM execution_event
             WHERE partition_date = $1 AND plan_id = $2 AND plan_version = $3 ORDER BY sequence",
            row.partition_date,
            plan.plan_id,
            plan.plan_version,
        )
        .fetch_all(&mut *tx)
        .await?
        .into_iter()
        .map(|row| {
            let event =
                LoggedEvent { plan, sequence: row.sequence, kind: row.kind, at: row.at, data: row.data };
            Ok(ExportedEvent { envelope: event.envelope(), hash: checkpoint::hash(&row.hash)? })
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
        let seals = self.seals(&mut tx, plan).await?;
        Ok(Some(Export {
            format: FORMAT,
            plan_id: plan.plan_id,
            plan_version: plan.plan_version,
            exported_at: now,
            plan: document,
            verdicts,
            events,
            seals,
        }))
    }

    async fn seals(
        &mut self,
        conn: &mut PgConnection,
        plan: PlanKey,
    ) -> Result<Vec<ExportedSeal>, StoreError> {
        let rows = sqlx::query!(
            "SELECT number, place, last_sequence, last_hash FROM audit_leaf WHERE plan_id = $1 AND plan_version = $2
             ORDER BY number",
            plan.plan_id,
            plan.plan_version,
        )
        .fetch_all(&mut *conn)
        .await?;
        let mut seals = Vec::with_capacity(rows.len());
        for row in rows {
            let leaf = Leaf {
                plan_id: plan.plan_id,
                plan_version: plan.plan_version,
                last_sequence: row.last_sequence,
                last_hash: checkpoint::hash(&row.last_hash)?,
            };
            let (checkpoint, proof) = self.proof(conn, row.number, row.place).await?;
            let place = u32::try_from(row.place).unwrap_or(u32::MAX);
            seals.push(ExportedSeal { leaf, place, proof, checkpoint });
        }
        Ok(seals)
    }

    /// A checkpoint, and the path to its root from a leaf; an empty one where the leaf is not there any more.
    async fn proof(
        &mut self,
        conn: &mut PgConnection,
        number: i64,
        place: i32,
    ) -> Result<(Checkpoint, Vec<LogHash>), StoreError> {
        if !self.trees.contains_key(&number) {
            let row =
                checkpoint::page(conn, number - 1, 1).await?.pop().map(checkpoint::Row::read).transpose()?;
            let found = row.filter(|found| found.number == number).ok_or_else(|| {
                StoreError::Corrupt(format!("checkpoint {number} has leaves, and is not there"))
            })?;
            let leaves = checkpoint::leaves(conn, number).await?;
            let tree = Tree::of(&leaves)?;
            if self.trees.len() >= TREES {
                self.trees.pop_first();
            }
            self.trees.insert(number, (found, tree));
        }
        let (checkpoint, tree) = &self.trees[&number];
        let proof = usize::try_from(place).ok().and_then(|place| tree.proof(place)).unwrap_or_default();
        Ok((checkpoint.clone(), proof))
    }
}
