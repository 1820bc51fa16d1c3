//! Looks, on a real Redis: one of a fleet, and everyone while it is away.

use std::time::Duration;

use dat_guards::Looks;

use crate::server::Server;
use crate::{TIMEOUT, store};

const LONG: Duration = Duration::from_mins(10);

#[tokio::test]
async fn one_of_a_fleet_looks_and_another_once_the_pause_is_over() {
    let store = store();
    let (one, other) = (Looks::new(store.clone()), Looks::new(store));
    assert!(one.mine("sweep", LONG).await);
    assert!(!other.mine("sweep", LONG).await && !one.mine("sweep", LONG).await);
    assert!(other.mine("relay", Duration::from_millis(1)).await, "another look is nobody's yet");
    // Its pause is over by the server's clock, whenever that is.
    while !one.mine("relay", LONG).await {}
}

#[tokio::test]
async fn everyone_looks_while_redis_is_away() {
    let server = Server::start_anywhere().await;
    let looks = Looks::new(server.store(TIMEOUT));
    assert!(looks.mine("sweep", LONG).await);
    assert!(!looks.mine("sweep", LONG).await);
    server.stop().await;
    assert!(looks.mine("sweep", LONG).await && looks.mine("sweep", LONG).await);
}
