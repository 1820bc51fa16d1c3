//! Accounts proved: what each holds is its last snapshot and what changed after it; every snapshot is the sum of the
//! entries before it; and what is reserved is what open reservations hold.
//!
//! Sums are the database's to build: what comes here is a page of accounts, or what does not hold. Memory is bounded.

use dat_plan::PlanKey;

use super::{AuditFault, AuditReport};
use crate::connection::PgConnection;
use crate::error::StoreError;
use crate::pool::Store;

/// Accounts looked at in one statement.
const PAGE: i64 = 500;
/// Faults of a kind that one audit names.
const FAULTS: i64 = 1_000;

/// Whose account, for people.
struct Named {
    account_id: i64,
    tenant: String,
    currency: String,
    plan: Option<PlanKey>,
    period: Option<String>,
}

impl Named {
    fn fault(&self, what: &str) -> AuditFault {
        let Self { account_id, tenant, currency, plan, period } = self;
        let whose = period.as_ref().map_or("the plan", String::as_str);
        AuditFault {
            plan: plan.unwrap_or(PlanKey::CONTROL),
            message: format!("account {account_id} ({tenant}, {currency}, {whose}) {what}"),
        }
    }
}

impl Store {
    /// Compares every account, or one plan's, with its last snapshot and the changes after it. In one snapshot of the
    /// database a page.
    pub(super) async fn audit_accounts(
        &self,
        only: Option<PlanKey>,
        report: &mut AuditReport,
    ) -> Result<(), StoreError> {
        let mut after = 0;
        loop {
            let mut tx = self.begin_reading().await?;
            let page = sqlx::query!(
                r#"SELECT a.account_id, a.tenant, a.currency, a.plan_id, a.plan_version,
                        coalesce(a.period || ' ' || a.period_start,
                                 a.cap_key || ' ' || a.cap_period || ' ' || a.cap_start) AS period, a.version, a.settled, a.reserved, a.overrun,
                        coalesce(s.position, 0) AS "position!",
                        coalesce(s.settled, 0) + c.settled AS "proved_settled!",
                        coalesce(s.reserved, 0) + c.reserved AS "proved_reserved!",
                        coalesce(s.overrun, 0) + c.overrun AS "proved_overrun!",
                        c.changes AS "changes!"
                 FROM budget_account a
                 LEFT JOIN LATERAL (
                     SELECT position, settled, reserved, overrun FROM budget_snapshot s
                     WHERE s.account_id = a.account_id ORDER BY s.position DESC LIMIT 1) AS s ON true
                 CROSS JOIN LATERAL (
                     SELECT count(*) AS changes, coalesce(sum(c.settled), 0)::bigint AS settled,
                            coalesce(sum(c.reserved), 0)::bigint AS reserved,
                            coalesce(sum(c.overrun), 0)::bigint AS overrun
                     FROM budget_change c
                     WHERE c.account_id = a.account_id AND c.version > coalesce(s.position, 0)) AS c
                 WHERE a.account_id > $1 AND ($2::uuid IS NULL OR (a.plan_id = $2 AND a.plan_version = $3))
                 ORDER BY a.account_id LIMIT $4"#,
                after,
                only.map(|plan| plan.plan_id),
                only.map(|plan| plan.plan_version),
                PAGE,
            )
            .fetch_all(&mut *tx)
            .await?;
            let Some(last) = page.last() else { return Ok(()) };
            after = last.account_id;
            for row in page {
                report.accounts += 1;
                report.changes += u64::try_from(row.changes).unwrap_or_default();
                let named = Named {
                    account_id: row.account_id,
                    tenant: row.tenant,
                    currency: row.currency,
                    plan: row.plan_id.zip(row.plan_version).map(|(id, version)| PlanKey::new(id, version)),
                    period: row.period,
                };
                if row.position > row.version {
                    report.faults.push(named.fault(&format!(
                        "has version {}, and a snapshot of version {}",
                        row.version, row.position
                    )));
                }
                for (part, is, proved) in [
                    ("spent", row.settled, row.proved_settled),
                    ("reserved", row.reserved, row.proved_reserved),
                    ("overrun", row.overrun, row.proved_overrun),
                ] {
                    if is != proved {
                        report.faults.push(named.fault(&format!(
                            "says {is} {part}; its snapshot of version {} and what changed after it say {proved}",
                            row.position
                        )));
                    }
                }
            }
        }
    }

    /// Compares what tenants' accounts hold reserved with the open reservations on them.
    pub(super) async fn audit_reservations(&self, report: &mut AuditReport) -> Result<(), StoreError> {
        let wrong = sqlx::query!(
            r#"WITH held AS (
                 SELECT x.account_id,
                        sum(CASE WHEN r.action_open THEN r.action_amount ELSE 0 END
                            + CASE WHEN r.undo_open THEN r.undo_amount ELSE 0 END)::bigint AS amount
                 FROM budget_reservation r CROSS JOIN LATERAL UNNEST(r.accounts) AS x (account_id)
                 WHERE r.action_open OR r.undo_open
                 GROUP BY x.account_id)
             SELECT a.account_id, a.tenant, a.currency, coalesce(a.period || ' ' || a.period_start,
                                 a.cap_key || ' ' || a.cap_period || ' ' || a.cap_start) AS period, a.reserved,
                    coalesce(held.amount, 0) AS "held!"
             FROM budget_account a LEFT JOIN held USING (account_id)
             -- A plan's own account is compared with its plan's reservations.
             WHERE a.plan_id IS NULL AND a.reserved <> coalesce(held.amount, 0)
             LIMIT $1"#,
            FAULTS,
        )
        .fetch_all(self.pool())
        .await?;
        for row in wrong {
            let named = Named {
                account_id: row.account_id,
                tenant: row.tenant,
                currency: row.currency,
                plan: None,
                period: row.period,
            };
            let what = format!("holds {} reserved, the open reservations on it {}", row.reserved, row.held);
            report.faults.push(named.fault(&what));
        }
        Ok(())
    }

    /// Follows every account from its beginning: between any two snapshots, and from the last to the present, the
    /// entries, and the changes, add up to the difference. Reads all of the ledger, in one snapshot of the database.
    pub(super) async fn audit_history(&self, report: &mut AuditReport) -> Result<(), StoreError> {
        let mut tx = self.begin_reading().await?;
        // All of history takes as long as it takes.
        sqlx::query("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
        history(&mut tx, report).await
    }
}

async fn history(conn: &mut PgConnection, report: &mut AuditReport) -> Result<(), StoreError> {
    let wrong = sqlx::query!(
        r#"WITH moved AS (
             SELECT 'entries' AS source, x.account_id, x.version,
                    CASE e.entry WHEN 'incurred' THEN e.amount WHEN 'refund' THEN -e.amount ELSE 0 END AS settled,
                    CASE e.entry WHEN 'reserved' THEN e.amount WHEN 'released' THEN -e.amount ELSE -e.held END AS reserved,
                    CASE e.entry WHEN 'incurred' THEN e.amount - e.held ELSE 0 END AS overrun
             FROM budget_entry e CROSS JOIN LATERAL UNNEST(e.accounts, e.account_versions) AS x (account_id, version)
             WHERE x.version IS NOT NULL
             UNION ALL
             SELECT 'changes', account_id, version, settled, reserved, overrun FROM budget_change),
         part AS (
             SELECT m.source, m.account_id, coalesce(s.position, 9223372036854775807) AS mark,
                    sum(m.settled)::bigint AS settled, sum(m.reserved)::bigint AS reserved,
                    sum(m.overrun)::bigint AS overrun
             FROM moved m
             LEFT JOIN LATERAL (
                 SELECT min(s.position) AS position FROM budget_snapshot s
                 WHERE s.account_id = m.account_id AND s.position >= m.version) AS s ON true
             GROUP BY 1, 2, 3),
         mark AS (
             SELECT account_id, position AS mark, moment, settled, reserved, overrun
             FROM budget_snapshot WHERE account_id IS NOT NULL
             UNION ALL
             SELECT account_id, 9223372036854775807, 'present', settled, reserved, overrun FROM budget_account),
         moves AS (
             SELECT account_id, mark, moment,
                    settled - coalesce(lag(settled) OVER history, 0) AS settled,
                    reserved - coalesce(lag(reserved) OVER history, 0) AS reserved,
                    overrun - coalesce(lag(overrun) OVER history, 0) AS overrun
             FROM mark WINDOW history AS (PARTITION BY account_id ORDER BY mark))
         SELECT a.account_id, a.tenant, a.currency, a.plan_id, a.plan_version,
                coalesce(a.period || ' ' || a.period_start,
                                 a.cap_key || ' ' || a.cap_period || ' ' || a.cap_start) AS period, source.name AS "source!", m.mark AS "mark!",
                m.settled AS "settled!", m.reserved AS "reserved!", m.overrun AS "overrun!",
                coalesce(p.settled, 0) AS "by_settled!", coalesce(p.reserved, 0) AS "by_reserved!",
                coalesce(p.overrun, 0) AS "by_overrun!"
         FROM moves m
         CROSS JOIN (VALUES ('entries'), ('changes')) AS source (name)
         JOIN budget_account a USING (account_id)
         LEFT JOIN part p ON p.source = source.name AND p.account_id = m.account_id AND p.mark = m.mark
         WHERE m.moment <> 'opening'
           AND (m.settled <> coalesce(p.settled, 0) OR m.reserved <> coalesce(p.reserved, 0)
                OR m.overrun <> coalesce(p.overrun, 0))
         ORDER BY a.account_id, m.mark LIMIT $1"#,
        FAULTS,
    )
    .fetch_all(conn)
    .await?;
    for row in wrong {
        let named = Named {
            account_id: row.account_id,
            tenant: row.tenant,
            currency: row.currency,
            plan: row.plan_id.zip(row.plan_version).map(|(id, version)| PlanKey::new(id, version)),
            period: row.period,
        };
        let until = if row.mark == i64::MAX {
            "the present".to_owned()
        } else {
            format!("its snapshot of version {}", row.mark)
        };
        report.faults.push(named.fault(&format!(
            "moved by ({}, {}, {}) spent, reserved and overrun up to {until}; its {} say ({}, {}, {})",
            row.settled,
            row.reserved,
            row.overrun,
            row.source,
            row.by_settled,
            row.by_reserved,
            row.by_overrun
        )));
    }
    Ok(())
}
