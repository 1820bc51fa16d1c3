//! What FLO and PTE keep: each event once, whether it came in order, and what FLO booked.

use dat_plan::PlanKey;

use super::StoreError;
use super::book::{Book, PlanEntry, Reading, Writing};
use super::scope::Scope;
use crate::envelope::Envelope;
use crate::flo;
use crate::report::{Event, EventSummary, LedgerLine, Misplaced};

/// A system that receives events.
pub(crate) struct Inbox {
    events: Book<PlanEntry, Event>,
    ids: Book<&'static str, u64>,
    heads: Book<&'static str, i64>,
    misplaced: Book<u64, Misplaced>,
    counts: Counts,
    books_money: bool,
}

/// The names of an inbox's counts.
struct Counts {
    events: &'static str,
    duplicates: &'static str,
    out_of_order: &'static str,
    malformed: &'static str,
    types: &'static str,
}

/// FLO's: it books what it receives.
pub(crate) static FLO: Inbox = Inbox {
    events: Book::new("flo_events"),
    ids: Book::new("flo_ids"),
    heads: Book::new("flo_heads"),
    misplaced: Book::new("flo_misplaced"),
    counts: Counts {
        events: "flo.events",
        duplicates: "flo.duplicates",
        out_of_order: "flo.out_of_order",
        malformed: "flo.malformed",
        types: "flo.type/",
    },
    books_money: true,
};

/// PTE's.
pub(crate) static PTE: Inbox = Inbox {
    events: Book::new("pte_events"),
    ids: Book::new("pte_ids"),
    heads: Book::new("pte_heads"),
    misplaced: Book::new("pte_misplaced"),
    counts: Counts {
        events: "pte.events",
        duplicates: "pte.duplicates",
        out_of_order: "pte.out_of_order",
        malformed: "pte.malformed",
        types: "pte.type/",
    },
    books_money: false,
};

const LEDGER: Book<&str, LedgerLine> = Book::new("flo_ledger");

/// Counts what says that money moved, and not whose or how much.
const UNBOOKED: &str = "flo.unbooked";

/// Makes the tables of this module.
pub(super) fn create(books: &Writing<'_>) -> Result<(), StoreError> {
    for inbox in [&FLO, &PTE] {
        books.create(&inbox.events)?;
        books.create(&inbox.ids)?;
        books.create(&inbox.heads)?;
        books.create(&inbox.misplaced)?;
    }
    books.create(&LEDGER)
}

/// Takes an event in: stores it if it is new, checks its place, books it.
pub(crate) fn receive(
    books: &mut Writing<'_>,
    inbox: &'static Inbox,
    envelope: Envelope,
) -> Result<(), StoreError> {
    if books.get(&inbox.ids, envelope.id.as_str())?.is_some() {
        books.count(inbox.counts.duplicates);
        return Ok(());
    }
    books.count(inbox.counts.events);
    books.count(format!("{}{}", inbox.counts.types, envelope.kind));
    let order = books.counted(inbox.counts.events)?;
    let plan = envelope.plan();
    books.put(&inbox.ids, envelope.id.as_str(), &order)?;
    place(books, inbox, plan, &envelope)?;
    if inbox.books_money {
        match flo::line(&envelope) {
            Ok(Some(line)) => post(books, line)?,
            Ok(None) => {}
            Err(_) => books.count(UNBOOKED),
        }
    }
    let Envelope { id, kind, sequence, time, data } = envelope;
    let PlanKey { plan_id, plan_version } = plan;
    let event = Event { order, plan_id, plan_version, id, kind, sequence, time, data };
    books.put(&inbox.events, (plan_id.as_u128(), order), &event)
}

/// Checks that the sequence of the plan version does not go down.
fn place(
    books: &mut Writing<'_>,
    inbox: &Inbox,
    plan: PlanKey,
    envelope: &Envelope,
) -> Result<(), StoreError> {
    let stream = plan.to_string();
    match books.get(&inbox.heads, stream.as_str())? {
        Some(after) if envelope.sequence < after => {
            books.count(inbox.counts.out_of_order);
            let number = books.counted(inbox.counts.out_of_order)?;
            let misplaced = Misplaced { id: envelope.id.clone(), sequence: envelope.sequence, after };
            books.put(&inbox.misplaced, number, &misplaced)
        }
        _ => books.put(&inbox.heads, stream.as_str(), &envelope.sequence),
    }
}

fn post(books: &Writing<'_>, line: LedgerLine) -> Result<(), StoreError> {
    let LedgerLine { plan_id, plan_version, ref tenant, ref currency, .. } = line;
    let key = format!("{plan_id}/{plan_version}/{tenant}/{currency}");
    let total = match books.get(&LEDGER, key.as_str())? {
        Some(before) => flo::sum(before, &line),
        None => line,
    };
    books.put(&LEDGER, key.as_str(), &total)
}

/// Counts what is no event.
pub(crate) fn unreadable(books: &mut Writing<'_>, inbox: &'static Inbox) {
    books.count(inbox.counts.malformed);
}

/// The events, in the order in which they first came.
pub(crate) fn events(books: &Reading, inbox: &Inbox, scope: Scope) -> Result<Vec<Event>, StoreError> {
    let mut events = books.of_plan(&inbox.events, scope.plan_id)?;
    events.retain(|event| scope.holds(event.plan_version));
    events.sort_unstable_by_key(|event| event.order);
    Ok(events)
}

/// The figures of an inbox.
pub(crate) fn summary(books: &Reading, inbox: &Inbox) -> Result<EventSummary, StoreError> {
    Ok(EventSummary {
        events: books.count(inbox.counts.events)?,
        duplicates: books.count(inbox.counts.duplicates)?,
        out_of_order: books.count(inbox.counts.out_of_order)?,
        misplaced: books.all(&inbox.misplaced)?,
        malformed: books.count(inbox.counts.malformed)?,
        unbooked: if inbox.books_money { books.count(UNBOOKED)? } else { 0 },
        by_type: books.counts(inbox.counts.types)?,
    })
}

/// FLO's ledger.
pub(crate) fn ledger(books: &Reading, scope: Scope) -> Result<Vec<LedgerLine>, StoreError> {
    let mut lines = books.all(&LEDGER)?;
    lines.retain(|line| scope.holds(line.plan_version) && scope.plan_id.is_none_or(|id| id == line.plan_id));
    Ok(lines)
}
