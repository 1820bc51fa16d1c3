//! Streams: every chain followed from its first event, side by side with the leaves that sealed it.
//!
//! A page of streams takes a handful of statements, whatever it holds: the events come in their order through one of
//! them, and only what is proved of the present stream is kept.

use std::collections::BTreeMap;

use dat_plan::PlanKey;
use dat_plan::event::{EventKind, LoggedEvent};
use dat_plan::signing::Trust;
use futures_util::TryStreamExt as _;
use uuid::Uuid;

use super::{AuditFault, AuditReport, Chain, approvals, money, states};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;

/// Streams of a page, at most,
const STREAMS: i64 = 500;
/// and their events, unless one alone has more.
const EVENTS: i64 = 50_000;

/// Where a stream ends, by its head.
struct Head {
    plan: PlanKey,
    last_sequence: i64,
    last_hash: Vec<u8>,
    /// Its month was archived: its events are in its exported file alone.
    archived: bool,
}

/// A leaf of some checkpoint.
struct SealedTo {
    number: i64,
    sequence: i64,
    hash: Vec<u8>,
}

type Leaves = BTreeMap<PlanKey, Vec<SealedTo>>;

impl Store {
    /// Follows the chains of all streams, or of one.
    pub(super) async fn audit_streams(
        &self,
        only: Option<PlanKey>,
        trust: &Trust,
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        let mut after = (Uuid::nil(), -1);
        loop {
            // A page is read as of one moment: the fleet goes on writing.
            let mut tx = self.begin_snapshot().await?;
            let mut page = sqlx::query!(
                r#"SELECT plan_id, plan_version, partition_date, last_sequence, last_hash,
                        EXISTS (SELECT FROM archived_month m
                                WHERE m.first = date_trunc('month', s.partition_date)) AS "archived!"
                 FROM event_stream s
                 WHERE (plan_id, plan_version) > ($1, $2)
                   AND ($3::uuid IS NULL OR (plan_id = $3 AND plan_version = $4))
                 ORDER BY plan_id, plan_version LIMIT $5"#,
                after.0,
                after.1,
                only.map(|p| p.plan_id),
                only.map(|p| p.plan_version),
                STREAMS,
            )
            .fetch_all(&mut *tx)
            .await?;
            let mut events = 0;
            let fitting = page.iter().take_while(|head| {
                events += head.last_sequence;
                events <= EVENTS
            });
            let fitting = fitting.count().max(1);
            let whole = page.len() < usize::try_from(STREAMS).unwrap_or(usize::MAX) && fitting >= page.len();
            page.truncate(fitting);
            let end = page.last().map(|head| (head.plan_id, head.plan_version));
            let columns = Columns {
                ids: page.iter().map(|head| head.plan_id).collect(),
                versions: page.iter().map(|head| head.plan_version).collect(),
                dates: page.iter().map(|head| head.partition_date).collect(),
            };
            let heads = page
                .into_iter()
                .map(|head| Head {
                    plan: PlanKey::new(head.plan_id, head.plan_version),
                    last_sequence: head.last_sequence,
                    last_hash: head.last_hash,
                    archived: head.archived,
                })
                .collect();
            // Leaves of streams that are not there any more lie between those that are, or after the last.
            let until = if whole { None } else { end };
            let leaves = leaves(&mut tx, only, after, until).await?;
            for (plan, mut chain) in self::page(&mut tx, heads, &columns, leaves, report).await? {
                if !plan.is_control() {
                    // One at a time: a document may be as long as a message.
                    approvals::compare(&mut tx, plan, &mut chain, &trust.verdicts).await?;
                }
                report.faults.extend(chain.faults.into_iter().map(|message| AuditFault { plan, message }));
            }
            match end {
                Some(end) if !whole => after = end,
                _ => return Ok(()),
            }
        }
    }
}

/// The streams of a page, as columns.
struct Columns {
    ids: Vec<Uuid>,
    versions: Vec<i32>,
    dates: Vec<chrono::NaiveDate>,
}

/// The leaves of streams after one, up to another or to the last: those of a checkpoint's own stream or of all.
async fn leaves(
    conn: &mut PgConnection,
    only: Option<PlanKey>,
    after: (Uuid, i32),
    until: Option<(Uuid, i32)>,
) -> Result<Leaves, StoreError> {
    let (after, until) = match only {
        Some(plan) => ((plan.plan_id, plan.plan_version - 1), Some((plan.plan_id, plan.plan_version))),
        None => (after, until),
    };
    let (last, last_version) = until.unwrap_or((Uuid::max(), i32::MAX));
    let mut rows = sqlx::query!(
        "SELECT plan_id, plan_version, number, last_sequence, last_hash FROM audit_leaf
         WHERE (plan_id, plan_version) > ($1, $2) AND (plan_id, plan_version) <= ($3, $4)
         ORDER BY plan_id, plan_version, last_sequence",
        after.0,
        after.1,
        last,
        last_version,
    )
    .fetch(conn);
    let mut leaves = Leaves::new();
    while let Some(row) = rows.try_next().await? {
        leaves.entry(PlanKey::new(row.plan_id, row.plan_version)).or_default().push(SealedTo {
            number: row.number,
            sequence: row.last_sequence,
            hash: row.last_hash,
        });
    }
    Ok(leaves)
}

/// Follows the chains of a page, and compares each plan with its rows, but for its approval.
async fn page(
    tx: &mut PgConnection,
    heads: Vec<Head>,
    columns: &Columns,
    mut leaves: Leaves,
    report: &mut AuditReport,
) -> Result<Vec<(PlanKey, Chain)>, StoreError> {
    let mut chains = Vec::with_capacity(heads.len());
    let books = money::books(tx, &columns.ids, &columns.versions).await?;
    let standing = states::standing(tx, &columns.ids, &columns.versions).await?;
    let mut rows = sqlx::query!(
        r#"SELECT e.plan_id AS "plan_id!", e.plan_version AS "plan_version!", e.sequence AS "sequence!",
                e.kind AS "kind!", e.at AS "at!", e.data AS "data!", e.hash AS "hash!"
         FROM UNNEST($1::uuid[], $2::integer[], $3::date[]) WITH ORDINALITY
              AS h (plan_id, plan_version, partition_date, place)
         CROSS JOIN LATERAL (
             SELECT * FROM execution_event e
             WHERE e.partition_date = h.partition_date AND e.plan_id = h.plan_id
               AND e.plan_version = h.plan_version
             ORDER BY e.sequence) AS e
         ORDER BY h.place, e.sequence"#,
        &columns.ids,
        &columns.versions,
        &columns.dates,
    )
    .fetch(tx);
    let mut next = rows.try_next().await?;
    for head in heads {
        let plan = head.plan;
        report.streams += 1;
        let mut sealed = Seals::of(leaves.remove(&plan));
        let mut chain = Chain::default();
        while let Some(row) =
            next.take_if(|row| (row.plan_id, row.plan_version) == (plan.plan_id, plan.plan_version))
        {
            report.events += 1;
            let event =
                LoggedEvent { plan, sequence: row.sequence, kind: row.kind, at: row.at, data: row.data };
            chain.follow(&event, &row.hash)?;
            sealed.pass(&event, &row.hash, &mut chain.faults);
            next = rows.try_next().await?;
        }
        if head.archived {
            report.archived += 1;
            let faults =
                sealed.archived(&head, &chain).into_iter().map(|message| AuditFault { plan, message });
            report.faults.extend(faults);
            continue;
        }
        chain.end(head.last_sequence, &head.last_hash);
        report.leaves += sealed.found;
        report.unsealed += sealed.end(&chain);
        if !plan.is_control() {
            if let Some(standing) = standing.get(&plan) {
                states::compare(standing, &chain.replay, &mut chain.faults);
            }
            let none = money::Books::default();
            money::compare(books.get(&plan).unwrap_or(&none), &chain.amounts, &mut chain.faults);
        }
        chain.faults.append(&mut sealed.faults);
        chains.push((plan, chain));
    }
    for (plan, leaves) in leaves {
        let sealed: Vec<String> = leaves.iter().map(|leaf| leaf.number.to_string()).collect();
        let message = format!("the stream is gone; it was sealed by checkpoint {}", sealed.join(", "));
        report.faults.push(AuditFault { plan, message });
    }
    Ok(chains)
}

/// The leaves of a stream, in the order of its events.
struct Seals {
    waiting: std::iter::Peekable<std::vec::IntoIter<SealedTo>>,
    last: i64,
    found: u64,
    /// Events after the last leaf that announce no checkpoint.
    unsealed: i64,
    faults: Vec<String>,
}

impl Seals {
    fn of(leaves: Option<Vec<SealedTo>>) -> Self {
        let waiting = leaves.unwrap_or_default().into_iter().peekable();
        Self { waiting, last: 0, found: 0, unsealed: 0, faults: Vec::new() }
    }

    /// An event of the stream.
    fn pass(&mut self, event: &LoggedEvent, hash: &[u8], faults: &mut Vec<String>) {
        if event.kind != EventKind::Checkpoint.routing_key() {
            self.unsealed += 1;
        }
        while let Some(leaf) = self.waiting.next_if(|leaf| leaf.sequence <= event.sequence) {
            let SealedTo { number, sequence, hash: sealed } = leaf;
            self.last = sequence;
            if sequence < event.sequence {
                faults.push(format!("checkpoint {number} sealed event {sequence}, which is not there"));
            } else if sealed == hash {
                self.found += 1;
            } else {
                faults.push(format!("event {sequence} is another than checkpoint {number} sealed"));
            }
            self.unsealed = 0;
        }
    }

    /// The stream is not in the log any more: its head is where it was sealed last.
    fn archived(self, head: &Head, chain: &Chain) -> Option<String> {
        let end = head.last_sequence;
        if chain.sequence > 0 {
            return Some(format!("its month was archived, and event {} of it is in the log", chain.sequence));
        }
        match self.waiting.last() {
            Some(last) if last.sequence == end && last.hash == head.last_hash => None,
            Some(last) => Some(format!(
                "it was archived up to event {end} by its head, checkpoint {} sealed it up to {}",
                last.number, last.sequence
            )),
            None => {
                Some(format!("it was archived up to event {end} by its head, and no checkpoint sealed it"))
            }
        }
    }

    /// The stream is at its end: nothing was sealed beyond it.
    fn end(&mut self, chain: &Chain) -> i64 {
        for SealedTo { number, sequence, .. } in self.waiting.by_ref() {
            self.faults.push(format!(
                "checkpoint {number} sealed the stream up to event {sequence}, it ends at {}",
                chain.sequence
            ));
        }
        self.unsealed
    }
}
