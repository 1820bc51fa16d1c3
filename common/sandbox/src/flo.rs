//! The sandbox FLO, pure: books financial events and nets them.

use serde::Deserialize;

use crate::envelope::Envelope;
use crate::report::LedgerLine;

/// What a financial event books.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Posting {
    Incurred,
    Refunded,
    Reserved,
    Released,
}

impl Posting {
    fn of(kind: &str) -> Option<Self> {
        match kind.strip_prefix("dat.")? {
            "spend.incurred" => Some(Self::Incurred),
            "refund.issued" => Some(Self::Refunded),
            "spend.reserved" => Some(Self::Reserved),
            "spend.released" => Some(Self::Released),
            _ => None,
        }
    }
}

/// What a financial event must say to be booked.
#[derive(Debug, Deserialize)]
struct Money {
    tenant: String,
    amount: i64,
    currency: String,
}

/// The line that an event belongs to, with this event alone booked on it; `None` where it moves no money. A financial
/// event that does not say whose money moved, and how much, is a fault.
pub(crate) fn line(event: &Envelope) -> Result<Option<LedgerLine>, serde_json::Error> {
    let Some(posting) = Posting::of(&event.kind) else { return Ok(None) };
    let Money { tenant, amount, currency } = Money::deserialize(&event.data)?;
    let plan = event.plan();
    let mut line = LedgerLine {
        plan_id: plan.plan_id,
        plan_version: plan.plan_version,
        tenant,
        currency,
        ..LedgerLine::default()
    };
    match posting {
        Posting::Incurred => line.incurred = amount,
        Posting::Refunded => line.refunded = amount,
        Posting::Reserved => line.reserved = amount,
        Posting::Released => line.released = amount,
    }
    line.net = line.incurred.saturating_sub(line.refunded);
    Ok(Some(line))
}

/// Two lines of the same plan version, tenant and currency, as one.
pub(crate) fn sum(mut line: LedgerLine, more: &LedgerLine) -> LedgerLine {
    line.incurred = line.incurred.saturating_add(more.incurred);
    line.refunded = line.refunded.saturating_add(more.refunded);
    line.reserved = line.reserved.saturating_add(more.reserved);
    line.released = line.released.saturating_add(more.released);
    line.net = line.incurred.saturating_sub(line.refunded);
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use uuid::Uuid;

    fn event(kind: &str, amount: i64) -> Envelope {
        serde_json::from_value(json!({
            "id": "x", "type": kind, "sequence": "1",
            "data": {"plan_id": Uuid::max(), "plan_version": 1, "tenant": "acme", "amount": amount, "currency": "usd"}
        }))
        .expect("an event")
    }

    #[test]
    fn a_plan_nets_to_what_was_spent_and_did_not_come_back() {
        let total = [
            ("dat.spend.reserved", 90),
            ("dat.spend.incurred", 70),
            ("dat.spend.released", 20),
            ("dat.refund.issued", 30),
        ]
        .into_iter()
        .filter_map(|(kind, amount)| line(&event(kind, amount)).expect("readable"))
        .reduce(|total, one| sum(total, &one))
        .expect("booked");
        assert_eq!((total.reserved, total.released, total.incurred, total.refunded), (90, 20, 70, 30));
        assert_eq!((total.net, total.tenant.as_str(), total.plan_id), (40, "acme", Uuid::max()));
    }

    #[test]
    fn what_moves_no_money_books_nothing_and_what_is_vague_is_a_fault() {
        assert!(matches!(line(&event("dat.step.completed", 5)), Ok(None)));
        let mut vague = event("dat.spend.incurred", 5);
        vague.data = json!({"amount": 5});
        assert!(line(&vague).is_err());
    }
}
