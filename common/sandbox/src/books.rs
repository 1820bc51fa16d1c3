//! The books of MUX and FLO without a broker between: what they keep, asked directly.
//!
//! **May be called** by tests that simulate a fleet within their own process. The models and the store are those of the
//! sandbox's desks, so what is booked here is what would be booked there. **Must never** be what a running fleet is
//! pointed at: that is the [`crate::Sandbox`].

use chrono::{DateTime, Utc};
use dat_plan::mux::{ActionReply, ActionRequest, ProbeReply};
use serde_json::Value;

use crate::envelope::Envelope;
use crate::mux::Moment;
use crate::report::{AppliedEffect, LedgerLine};
use crate::store::{Scope, Store, StoreError, events, mux};

/// What MUX and FLO keep, in memory.
#[derive(Debug, Clone)]
pub struct OutsideBooks {
    store: Store,
}

impl OutsideBooks {
    /// Empty books. Must be called within a tokio runtime.
    pub fn open() -> Result<Self, StoreError> {
        // Its writer ends with the last handle.
        let (store, _writer) = Store::open(None)?;
        Ok(Self { store })
    }

    /// MUX decides a request that reaches it now, and makes its effect happen; no reply where the answer is lost.
    pub async fn act(
        &self,
        request: ActionRequest,
        now: DateTime<Utc>,
    ) -> Result<Option<ActionReply>, StoreError> {
        let received = Moment { tick: self.store.tick(), at: now };
        self.store.write(move |books| mux::settle(books, &request, received, now)).await
    }

    /// MUX answers a probe, and seals the key if nothing happened under it.
    pub async fn probe(&self, key: String) -> Result<ProbeReply, StoreError> {
        self.store.write(move |books| mux::probe(books, &key)).await
    }

    /// FLO takes in events, as `CloudEvents`, in the order given; one that it has is passed over.
    pub async fn receive(&self, envelopes: Vec<Value>) -> Result<(), StoreError> {
        let envelopes: Vec<Envelope> = envelopes
            .into_iter()
            .map(serde_json::from_value)
            .collect::<Result<_, _>>()
            .map_err(StoreError::Codec)?;
        let file = move |books: &mut crate::store::Writing<'_>| {
            envelopes.into_iter().try_for_each(|one| events::receive(books, &events::FLO, one))
        };
        self.store.write(file).await
    }

    /// Every effect of MUX, in the order in which they happened.
    pub async fn effects(&self) -> Result<Vec<AppliedEffect>, StoreError> {
        self.store.read(|books| mux::effects(books, Scope::default())).await
    }

    /// What FLO booked: a line for each plan version, tenant and currency.
    pub async fn ledger(&self) -> Result<Vec<LedgerLine>, StoreError> {
        self.store.read(|books| events::ledger(books, Scope::default())).await
    }
}
