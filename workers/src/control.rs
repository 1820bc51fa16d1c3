//! `dat.control`: an operator stopped or resumed something. The rows say what; every claim reads them. The message only
//! makes a worker look at once.

use dat_topology::Exchange;

use crate::fleet::Fleet;

/// Looks whenever an operator has acted, until the worker drains.
pub(crate) async fn follow(fleet: &Fleet) {
    let exchange = fleet.topology.exchange(Exchange::Control);
    let mut acts = match fleet.bus.exclusive(vec![(exchange.name().to_owned(), String::new())]) {
        Ok(acts) => acts,
        Err(error) => {
            tracing::error!(%error, "operators' acts are noticed by the sweeper alone");
            return;
        }
    };
    loop {
        let act = tokio::select! {
            () = fleet.draining.cancelled() => return,
            act = acts.next() => act,
        };
        if act.is_none() {
            return;
        }
        fleet.bells.dispatch.ring();
        fleet.bells.failed.ring();
    }
}
