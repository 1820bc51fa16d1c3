//! Checkpoints: one chain without a gap, each signed by a key that is believed, each root that of its leaves; and a
//! checkpoint that someone else holds is the one of the chain.

use dat_plan::PlanKey;
use dat_plan::checkpoint::{Checkpoint, FORMAT, LogHash, Tree};
use dat_plan::signing::{KeyRing, Trust};

use super::{AuditFault, AuditReport};
use crate::checkpoint;
use crate::error::StoreError;
use crate::pool::Store;

/// Checkpoints of a page.
const PAGE: i64 = 100;

impl Store {
    /// Follows the chain of checkpoints.
    pub(super) async fn audit_checkpoints(
        &self,
        trust: &Trust,
        held: &[Checkpoint],
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        let mut found = Vec::new();
        let mut before: Option<Checkpoint> = None;
        loop {
            let mut tx = self.begin_snapshot().await?;
            let after = before.as_ref().map_or(0, |last| last.number);
            let page = checkpoint::page(&mut tx, after, PAGE).await?;
            if page.is_empty() {
                break;
            }
            for row in page {
                let present = row.read()?;
                report.checkpoints += 1;
                let mut say = |what: String| found.push(format!("checkpoint {}: {what}", present.number));
                for fault in chained(&present, before.as_ref())? {
                    say(fault);
                }
                match signed(&present, &trust.checkpoints) {
                    Ok(checked) => report.signatures += u64::from(checked),
                    Err(fault) => say(fault),
                }
                let leaves = checkpoint::leaves(&mut tx, present.number).await?;
                if leaves.len() != present.leaves as usize {
                    say(format!("it sealed {} streams, {} leaves are there", present.leaves, leaves.len()));
                }
                if Tree::of(&leaves)?.root() != present.root {
                    say("its root is not that of its leaves".to_owned());
                }
                if held.iter().any(|held| held.number == present.number && *held != present) {
                    say("it is another than the one that is held elsewhere".to_owned());
                }
                before = Some(present);
            }
        }
        let last = before.as_ref().map_or(0, |last| last.number);
        for held in held {
            if held.number > last {
                let number = held.number;
                found.push(format!("checkpoint {number} is held elsewhere, the chain ends at {last}"));
            }
            if let Err(fault) = signed(held, &trust.checkpoints) {
                found.push(format!("checkpoint {} as it is held elsewhere: {fault}", held.number));
            }
        }
        self.beyond_the_last(last, &mut found).await?;
        let fault = |message| AuditFault { plan: PlanKey::CONTROL, message };
        report.faults.extend(found.into_iter().map(fault));
        Ok(())
    }

    /// What tells of checkpoints that are not there: leaves, and the event that announced one.
    async fn beyond_the_last(&self, last: i64, found: &mut Vec<String>) -> Result<(), StoreError> {
        let mut tx = self.begin_snapshot().await?;
        // One may have been made since the last page was read.
        let (present, leaf) = {
            let row = sqlx::query!(
                r#"SELECT (SELECT max(number) FROM audit_checkpoint) AS checkpoint,
                        (SELECT max(number) FROM audit_leaf) AS leaf"#
            )
            .fetch_one(&mut *tx)
            .await?;
            (row.checkpoint.unwrap_or(0), row.leaf.unwrap_or(0))
        };
        if leaf > present.max(last) {
            found.push(format!("checkpoint {leaf} has leaves, and is not there"));
        }
        let announced = sqlx::query!(
            r#"SELECT e.data AS "data!" FROM event_stream s
             JOIN execution_event e USING (partition_date, plan_id, plan_version)
             WHERE s.plan_id = $1 AND s.plan_version = $2 AND e.kind = 'audit.checkpoint'
             ORDER BY e.sequence DESC LIMIT 1"#,
            PlanKey::CONTROL.plan_id,
            PlanKey::CONTROL.plan_version,
        )
        .fetch_optional(&mut *tx)
        .await?;
        let Some(announced) = announced else { return Ok(()) };
        let Ok(announced) = serde_json::from_value::<Checkpoint>(announced.data) else {
            found.push("the last event that announces a checkpoint cannot be read".to_owned());
            return Ok(());
        };
        let row = checkpoint::page(&mut tx, announced.number - 1, 1).await?.pop();
        match row.map(checkpoint::Row::read).transpose()? {
            Some(row) if row == announced => {}
            Some(row) if row.number == announced.number => {
                found.push(format!("checkpoint {}: it is another than was announced", announced.number));
            }
            _ => found.push(format!("checkpoint {} was announced, and is not there", announced.number)),
        }
        Ok(())
    }
}

/// How a checkpoint does not follow the one before it.
fn chained(present: &Checkpoint, before: Option<&Checkpoint>) -> Result<Vec<String>, StoreError> {
    let mut faults = Vec::new();
    if present.format != FORMAT {
        faults.push(format!("its format is {}, this version reads {FORMAT}", present.format));
    }
    let last = before.map_or(0, |before| before.number);
    if present.number != last + 1 {
        faults.push(format!("it follows checkpoint {last}"));
    }
    let previous = before.map_or(Ok(LogHash::START), Checkpoint::hash)?;
    if present.previous != previous {
        let what = format!("it is chained to {}, the one before it is {previous}", present.previous);
        faults.push(what);
    }
    if before.is_some_and(|before| before.at > present.at) {
        faults.push(format!("it was made at {}, before the one before it", present.at));
    }
    Ok(faults)
}

/// Whether the signature was checked, and stands. Where no key is configured none is asked for; nor for what was made
/// before the time of every key.
fn signed(present: &Checkpoint, keys: &KeyRing) -> Result<bool, String> {
    let first = keys.keys().map(|key| key.not_before).min().flatten();
    if keys.is_empty() || (present.signature.is_none() && first.is_some_and(|first| present.at < first)) {
        return Ok(false);
    }
    present.verify(keys).map(|_| true).map_err(|fault| fault.to_string())
}
