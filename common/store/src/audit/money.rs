//! Money: what the events of a plan tell of spend is what ledger, account and reservations say.

use std::collections::{BTreeMap, BTreeSet};

use dat_plan::PlanKey;
use uuid::Uuid;

use super::{ENTRIES, Money};
use crate::connection::PgConnection;
use crate::error::StoreError;

/// What a plan's rows say of money.
#[derive(Debug, Default)]
pub(super) struct Books {
    entries: BTreeMap<Money, i64>,
    account: Option<AccountRow>,
}

#[derive(Debug)]
struct AccountRow {
    settled: i64,
    reserved: i64,
    ended: bool,
    at_end: Option<i64>,
    open: i64,
}

/// The books of plans.
pub(super) async fn books(
    conn: &mut PgConnection,
    ids: &[Uuid],
    versions: &[i32],
) -> Result<BTreeMap<PlanKey, Books>, StoreError> {
    let mut books: BTreeMap<PlanKey, Books> = BTreeMap::new();
    let rows = sqlx::query!(
        r#"SELECT b.plan_id, b.plan_version, b.entry, b.tenant, b.currency, sum(b.amount)::bigint AS "amount!"
         FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
         JOIN budget_entry b USING (plan_id, plan_version)
         GROUP BY b.plan_id, b.plan_version, b.entry, b.tenant, b.currency"#,
        ids,
        versions,
    )
    .fetch_all(&mut *conn)
    .await?;
    for row in rows {
        // One that the contract does not know is named as one that no event told of.
        let kind = ENTRIES.iter().find(|(entry, _)| *entry == row.entry).map_or("", |(_, kind)| *kind);
        let of = books.entry(PlanKey::new(row.plan_id, row.plan_version)).or_default();
        of.entries.insert((kind.to_owned(), row.tenant, row.currency), row.amount);
    }
    let accounts = sqlx::query!(
        r#"SELECT a.plan_id AS "plan_id!", a.plan_version AS "plan_version!", a.settled, a.reserved,
                p.ended_at IS NOT NULL AS "ended!",
                (SELECT s.settled FROM budget_snapshot s
                 WHERE s.plan_id = a.plan_id AND s.plan_version = a.plan_version AND s.moment = 'ended') AS at_end,
                (SELECT coalesce(sum(CASE WHEN action_open THEN action_amount ELSE 0 END
                                     + CASE WHEN undo_open THEN undo_amount ELSE 0 END), 0)::bigint
                 FROM budget_reservation r
                 WHERE r.plan_id = a.plan_id AND r.plan_version = a.plan_version) AS "open!"
         FROM UNNEST($1::uuid[], $2::integer[]) AS k (plan_id, plan_version)
         JOIN budget_account a ON a.plan_id = k.plan_id AND a.plan_version = k.plan_version
         JOIN execution_plan p ON p.plan_id = k.plan_id AND p.plan_version = k.plan_version"#,
        ids,
        versions,
    )
    .fetch_all(conn)
    .await?;
    for row in accounts {
        books.entry(PlanKey::new(row.plan_id, row.plan_version)).or_default().account = Some(AccountRow {
            settled: row.settled,
            reserved: row.reserved,
            ended: row.ended,
            at_end: row.at_end,
            open: row.open,
        });
    }
    Ok(books)
}

/// Compares the books of a plan with each other and with what its events tell.
pub(super) fn compare(books: &Books, told: &BTreeMap<Money, i64>, faults: &mut Vec<String>) {
    let sums: BTreeSet<&Money> = books.entries.keys().chain(told.keys()).collect();
    for money in sums {
        let of = |book: &BTreeMap<Money, i64>| book.get(money).copied().unwrap_or(0);
        let (booked, said) = (of(&books.entries), of(told));
        if booked != said {
            let (kind, tenant, currency) = money;
            let entry = ENTRIES.iter().find(|(_, k)| k == kind).map_or("of no kind", |(entry, _)| *entry);
            faults.push(format!(
                "the ledger has {booked} {entry}, the events {said}, of {tenant} in {currency}"
            ));
        }
    }
    let booked = |wanted: &str| -> i64 {
        books.entries.iter().filter(|((kind, ..), _)| kind == wanted).map(|(_, amount)| *amount).sum()
    };
    let net = booked("spend.incurred") - booked("refund.issued");
    let Some(account) = &books.account else { return };
    if account.settled != net {
        faults.push(format!("the account says {} spent, the ledger {net}", account.settled));
    }
    if account.reserved != account.open {
        faults.push(format!(
            "the account holds {} reserved, the open reservations {}",
            account.reserved, account.open
        ));
    }
    if account.ended && account.reserved != 0 {
        faults.push(format!("the plan is over and {} is still reserved", account.reserved));
    }
    if let Some(at_end) = account.at_end
        && at_end != account.settled
    {
        let settled = account.settled;
        faults.push(format!("the snapshot of its end says {at_end} spent, the account {settled}"));
    }
}
