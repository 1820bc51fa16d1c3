//! The bus against a real broker, each test in a virtual host of its own.
//!
//! Needs `AMQP_URL` and `AMQP_MANAGEMENT_URL`: `eval "$(make -s env)"`, or `make test`.

mod broker;
mod relay;

use std::num::NonZeroU16;
use std::sync::Arc;
use std::time::Duration;

use dat_bus::{
    Aside, Bus, BusConfig, ConsumeSpec, Consumer, Delivery, DeliveryToken, LinkState, MaybeSent, Message,
    NotSent, PublishError, Receipt, Received, RpcError,
};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use broker::Broker;
use relay::Relay;

/// Longer than anything here takes, so that a test that hangs fails with its own name.
const PATIENCE: Duration = Duration::from_secs(30);

async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    timeout(PATIENCE, future).await.unwrap_or_else(|_| panic!("waited {PATIENCE:?} for {what}"))
}

async fn start(amqp_url: &str) -> Bus {
    let bus =
        Bus::start(BusConfig::new(amqp_url, "dat-bus test").expect("an address"), CancellationToken::new());
    soon("both connections", bus.ready()).await;
    bus
}

fn consume(bus: &Bus, queue: &str, prefetch: u16) -> Consumer {
    let prefetch = NonZeroU16::new(prefetch).expect("not zero");
    bus.consume(ConsumeSpec { queue: queue.to_owned(), prefetch, consumer_tag: format!("test {queue}") })
        .expect("short names")
}

fn to_queue(queue: &str, id: impl std::fmt::Display) -> Message {
    Message::json("", queue, "{}").message_id(id.to_string())
}

fn ids(batch: &[Delivery]) -> Vec<&str> {
    batch.iter().filter_map(|delivery| delivery.message.message_id.as_deref()).collect()
}

fn tokens(batch: &[Delivery]) -> Vec<DeliveryToken> {
    batch.iter().map(|delivery| delivery.token).collect()
}

async fn take(consumer: &mut Consumer, count: usize) -> Vec<Delivery> {
    let mut taken = Vec::new();
    while taken.len() < count {
        let batch = soon("deliveries", consumer.next_batch(count - taken.len())).await;
        taken.extend(batch.expect("the bus is up"));
    }
    taken
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_messages_are_confirmed_taken_in_order_and_acked() {
    let broker = Broker::new("order");
    broker.declare_queue("work").await;
    let bus = start(&broker.amqp_url).await;
    let mut consumer = consume(&bus, "work", 64);
    let messages = (0..1000).map(|n| to_queue("work", n)).collect();

    let receipts = soon("confirms", bus.publisher().publish_all(messages)).await.expect("published");
    assert!(receipts.iter().all(Receipt::is_confirmed));
    assert_eq!(receipts.len(), 1000);

    let acker = consumer.acker();
    let mut seen = Vec::new();
    while seen.len() < 1000 {
        let batch = soon("a batch", consumer.next_batch(100)).await.expect("the bus is up");
        assert!(batch.len() <= 64, "the prefetch bounds what is unsettled");
        seen.extend(ids(&batch).into_iter().map(str::to_owned));
        // Every third is settled later and alone, the others together: both kinds of ack, out of order.
        let (later, now): (Vec<_>, Vec<_>) =
            tokens(&batch).into_iter().enumerate().partition(|(n, _)| n % 3 == 0);
        acker.ack(&now.into_iter().map(|(_, token)| token).collect::<Vec<_>>());
        acker.ack(&later.into_iter().map(|(_, token)| token).collect::<Vec<_>>());
    }
    assert_eq!(seen, (0..1000).map(|n: usize| n.to_string()).collect::<Vec<_>>());
    assert_eq!(acker.outstanding(), 0);
    soon("the connections to close", bus.close()).await;
    assert!(consumer.next().await.is_none(), "a bus that has shut down has no deliveries");
    // The acks were written before the connection closed; the queue applies them in its own time.
    soon("the queue to be empty", async { while broker.depth("work").await > 0 {} }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_returned_message_is_told_from_its_neighbours() {
    let broker = Broker::new("returns");
    broker.declare_queue("work").await;
    broker.declare_fanout("sink").await;
    let bus = start(&broker.amqp_url).await;
    // What goes to no queue is confirmed at once, what goes to a quorum queue later: so confirms come in groups, and lapin
    // hands a return to another message of its group.
    let message = |task: usize, n: usize| match n % 3 {
        0 => to_queue("nowhere", format!("{task}-{n}")),
        1 => to_queue("work", format!("{task}-{n}")),
        _ => Message::json("sink", "", "{}").message_id(format!("{task}-{n}")).mandatory(false),
    };
    let publish = |task: usize| {
        let publisher = bus.publisher();
        async move {
            let messages = (0..2000).map(|n| message(task, n)).collect();
            let receipts = publisher.publish_all(messages).await.expect("published");
            for (n, receipt) in receipts.iter().enumerate() {
                let returned =
                    matches!(receipt, Receipt::Returned { reply_text } if reply_text == "NO_ROUTE");
                assert_eq!(returned, n % 3 == 0, "message {n} of task {task}: {receipt:?}");
                assert!(returned || receipt.is_confirmed(), "message {n} of task {task}: {receipt:?}");
            }
        }
    };
    let tasks: Vec<_> = (0..8).map(|task| tokio::spawn(publish(task))).collect();
    for task in tasks {
        soon("a task", task).await.expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_window_that_the_broker_refuses_takes_no_other_with_it() {
    let broker = Broker::new("refused");
    broker.declare_queue("work").await;
    let bus = start(&broker.amqp_url).await;
    let publisher = bus.publisher();
    let stray = Message::json("no.such.exchange", "key", "{}");
    let (refused, confirmed) = tokio::join!(
        publisher.publish(stray),
        publisher.publish_all((0..500).map(|n| to_queue("work", n)).collect())
    );
    assert!(
        matches!(&refused, Err(PublishError::Refused(reason)) if reason.contains("no.such.exchange")),
        "{refused:?}"
    );
    assert!(confirmed.expect("published").iter().all(Receipt::is_confirmed));
    assert_eq!(bus.health().reconnects, 0, "the connection stays");
    let malformed = publisher.publish(Message::json("", "q".repeat(300), "{}")).await;
    assert!(matches!(malformed, Err(PublishError::Malformed(_))), "{malformed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_goes_on_after_its_connection_was_closed() {
    let broker = Broker::new("reconnect");
    broker.declare_queue("work").await;
    let bus = start(&broker.amqp_url).await;
    let mut consumer = consume(&bus, "work", 10);
    bus.publisher().publish_all((0..3).map(|n| to_queue("work", n)).collect()).await.expect("published");
    let before = take(&mut consumer, 3).await;
    consumer.ack(&[before[0].token]);

    broker.close_connection("consumer").await;
    let again = take(&mut consumer, 2).await;
    assert_eq!(ids(&again), ["1", "2"], "what was not acked comes again");
    assert!(again.iter().all(|delivery| delivery.message.redelivered));
    assert_eq!(bus.health().reconnects, 1);

    consumer.ack(&tokens(&before));
    assert_eq!(consumer.acker().outstanding(), 2, "tokens of the old connection settle nothing");
    consumer.ack(&tokens(&again));

    broker.close_connection("publisher").await;
    soon("the publisher to be back", async {
        while bus.publisher().publish(to_queue("work", 3)).await.is_err() {
            bus.publisher().ready().await;
        }
    })
    .await;
    assert_eq!(ids(&take(&mut consumer, 1).await), ["3"]);
    let health = bus.health();
    assert!(health.is_ready() && health.reconnects == 2, "{health:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_is_missing_is_waited_for() {
    let broker = Broker::new("missing");
    let bus = start(&broker.amqp_url).await;
    let mut consumer = consume(&bus, "later", 10);
    // Both connections are up, and yet nothing of that queue is taken.
    let health = bus.health();
    assert!(health.unbound == 1 && !health.is_ready(), "{health:?}");
    broker.declare_queue("later").await;
    soon("the queue to be consumed", consumer.bound()).await;
    let health = bus.health();
    assert!(health.unbound == 0 && health.is_ready(), "{health:?}");
    bus.publisher().publish(to_queue("later", 1)).await.expect("published");
    let taken = take(&mut consumer, 1).await;
    consumer.nack_requeue(&tokens(&taken));
    let again = take(&mut consumer, 1).await;
    assert!(again[0].message.redelivered, "put back and delivered again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_is_dropped_gives_its_deliveries_back() {
    let broker = Broker::new("dropped");
    broker.declare_queue("work").await;
    let bus = start(&broker.amqp_url).await;
    bus.publisher().publish_all((0..50).map(|n| to_queue("work", n)).collect()).await.expect("published");
    for _ in 0..20 {
        let mut consumer = consume(&bus, "work", 50);
        take(&mut consumer, 10).await;
    }
    let mut last = consume(&bus, "work", 50);
    assert_eq!(take(&mut last, 50).await.len(), 50);
    assert_eq!(bus.health().reconnects, 0, "closing one channel disturbs no other");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_exclusive_queue_comes_back_with_its_bindings() {
    let broker = Broker::new("exclusive");
    broker.declare_fanout("news").await;
    let bus = start(&broker.amqp_url).await;
    let mut consumer = bus.exclusive(vec![("news".to_owned(), String::new())]).expect("short names");
    soon("the binding", consumer.bound()).await;
    let news = |id: &str| Message::json("news", "", "{}").message_id(id).traceparent("00-ab-cd-01");
    bus.publisher().publish(news("first")).await.expect("published");
    let first = take(&mut consumer, 1).await;
    assert_eq!(first[0].message.traceparent(), Some("00-ab-cd-01"));
    assert_eq!(consumer.acker().outstanding(), 0, "acked as it was taken");

    broker.close_connection("consumer").await;
    let mut id = 0;
    let second = loop {
        id += 1;
        bus.publisher().publish(news(&id.to_string()).mandatory(false)).await.expect("published");
        if let Ok(delivery) = timeout(Duration::from_millis(100), consumer.next()).await {
            break delivery.expect("the bus is up");
        }
    };
    assert_eq!(second.message.exchange, "news");
}

/// Answers every request with its body, and says when.
async fn answer(bus: Bus, queue: &str, requests: mpsc::Sender<Received>, mut go: mpsc::Receiver<()>) {
    let mut consumer = consume(&bus, queue, 10);
    while let Some(delivery) = consumer.next().await {
        consumer.ack(&[delivery.token]);
        let request = delivery.message;
        let _ = requests.send(request.clone()).await;
        if go.recv().await.is_none() {
            return;
        }
        let reply = Message::json("", request.reply_to.expect("a queue"), request.body)
            .correlation_id(request.correlation_id.expect("an id"))
            .persistent(false);
        let _ = bus.publisher().publish(reply).await;
    }
}

/// Hears what comes to a call beside its answer; what says that it is none is none.
struct Ear {
    interim: mpsc::Sender<Received>,
    late: mpsc::Sender<Received>,
}

impl Aside for Ear {
    fn interim(&self, message: &Received) -> bool {
        message.body == b"interim" && self.interim.try_send(message.clone()).is_ok()
    }

    fn late(&self, answer: Received) {
        let _ = self.late.try_send(answer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_says_whether_its_request_may_have_been_sent() {
    let broker = Broker::new("rpc");
    broker.declare_queue("requests").await;
    let (bus, other_side) = (start(&broker.amqp_url).await, start(&broker.amqp_url).await);
    let client = bus.rpc_client();
    let (late, mut lates) = mpsc::channel(1);
    let (interim, mut interims) = mpsc::channel(1);
    let aside = Arc::new(Ear { interim, late });
    soon("the reply queue", client.ready()).await;
    let (requests, mut arrived) = mpsc::channel(1);
    let (go, gone) = mpsc::channel(1);
    tokio::spawn(answer(other_side, "requests", requests, gone));
    let request = |body: &str| Message::json("", "requests", body).message_id(body).persistent(false);
    let patient = || Instant::now() + PATIENCE;

    go.send(()).await.expect("the other side is there");
    let answered = client.call(request("1"), patient()).await.expect("an answer");
    assert_eq!(answered.body, b"1");
    arrived.recv().await.expect("the request");

    let unroutable = client.call(Message::json("", "nowhere", "2"), patient()).await;
    assert!(
        matches!(&unroutable, Err(RpcError::NotSent(NotSent::Unroutable { reply_text })) if reply_text == "NO_ROUTE"),
        "{unroutable:?}"
    );
    let too_late = client.call(request("3"), Instant::now()).await;
    assert!(matches!(too_late, Err(RpcError::NotSent(_))), "{too_late:?}");

    // The other side got the request, and answers after the deadline.
    let unanswered =
        client.call_with(request("4"), Instant::now() + Duration::from_millis(300), aside.clone()).await;
    assert_eq!(unanswered, Err(RpcError::MaybeSent(MaybeSent::NoAnswer)));
    assert_eq!(arrived.recv().await.expect("the request").body, b"4");
    go.send(()).await.expect("the other side is there");
    assert_eq!(soon("the late answer", lates.recv()).await.expect("an answer").body, b"4");
    assert_eq!(client.late(), 1);

    // What is not the answer is heard, and waited past.
    let call = tokio::spawn({
        let (client, message) = (client.clone(), request("interim"));
        async move { client.call_with(message, patient(), aside).await }
    });
    let asked = arrived.recv().await.expect("the request");
    let answer = Message::json("", asked.reply_to.expect("a queue"), "done").persistent(false);
    let answer = answer.correlation_id(asked.correlation_id.expect("an id"));
    go.send(()).await.expect("the other side is there");
    assert_eq!(soon("what is not the answer", interims.recv()).await.expect("a message").body, b"interim");
    assert!(!call.is_finished());
    bus.publisher().publish(answer).await.expect("published");
    let answered = soon("the call to end", call).await.expect("no panic").expect("an answer");
    assert_eq!((answered.body.as_slice(), client.late()), (&b"done"[..], 1));

    // The reply queue goes while the other side is at it.
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.call(request("5"), patient()).await }
    });
    arrived.recv().await.expect("the request");
    broker.close_connection("consumer").await;
    let lost = soon("the call to end", call).await.expect("no panic");
    assert_eq!(lost, Err(RpcError::MaybeSent(MaybeSent::ReplyQueueLost)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_away_is_waited_for_and_nothing_is_sent_meanwhile() {
    let broker = Broker::new("away");
    let relay = Relay::to(&broker.amqp_url).await;
    relay.refuse();
    let bus = Bus::start(
        BusConfig::new(&relay.amqp_url, "dat-bus test").expect("an address"),
        CancellationToken::new(),
    );
    let client = bus.rpc_client();
    let call = client.call(Message::json("", "requests", "{}"), Instant::now() + PATIENCE).await;
    assert_eq!(call, Err(RpcError::NotSent(NotSent::NoReplyQueue)));
    assert_eq!(bus.publisher().publish(to_queue("work", 1)).await, Err(PublishError::Unavailable));
    assert_eq!(bus.health().publishing, LinkState::Connecting);
    relay.pass();
    soon("both connections", bus.ready()).await;
    soon("the reply queue", client.ready()).await;
    assert!(bus.health().is_ready());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_broker_is_given_up_by_the_deadline_and_connected_to_anew() {
    let broker = Broker::new("silent");
    broker.declare_queue("work").await;
    let relay = Relay::to(&broker.amqp_url).await;
    let mut config = BusConfig::new(&relay.amqp_url, "dat-bus test").expect("an address");
    config.publish_timeout = Duration::from_millis(500);
    config.connect_timeout = Duration::from_millis(500);
    let bus = Bus::start(config, CancellationToken::new());
    soon("both connections", bus.ready()).await;
    let publisher = bus.publisher();
    assert_eq!(publisher.publish(to_queue("work", 1)).await, Ok(Receipt::Confirmed));

    relay.hold();
    assert_eq!(publisher.publish(to_queue("work", 2)).await, Err(PublishError::TimedOut));
    soon("the connection to be given up", async {
        while bus.health().publishing == LinkState::Up {
            let _ = publisher.publish(to_queue("work", 3)).await;
        }
    })
    .await;
    relay.pass();
    soon("a new connection", publisher.ready()).await;
    assert_eq!(publisher.publish(to_queue("work", 4)).await, Ok(Receipt::Confirmed));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_handed_to_a_broker_that_has_blocked_publishing() {
    let broker = Broker::new("blocked");
    broker.declare_queue("work").await;
    let relay = Relay::to(&broker.amqp_url).await;
    let bus = start(&relay.amqp_url).await;
    let publisher = bus.publisher();
    assert_eq!(publisher.publish(to_queue("work", 1)).await, Ok(Receipt::Confirmed));

    relay.say_blocked();
    soon("the news", async {
        while !bus.health().blocked {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(!bus.health().is_ready());
    assert_eq!(publisher.publish(to_queue("work", 2)).await, Err(PublishError::Blocked));

    relay.say_unblocked();
    soon("the news", publisher.ready()).await;
    assert_eq!(publisher.publish(to_queue("work", 3)).await, Ok(Receipt::Confirmed));
    assert_eq!(broker.depth("work").await, 2, "the message that was refused was not sent later");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_looked_at_goes_back_in_order_but_for_what_is_acked() {
    let broker = Broker::new("browse");
    broker.declare_queue("shelf").await;
    let bus = start(&broker.amqp_url).await;
    let messages = (0..5).map(|id| to_queue("shelf", id)).collect();
    bus.publisher().publish_all(messages).await.expect("confirmed");
    let mut browser = bus.browse("shelf").await.expect("the queue is there");
    assert_eq!(browser.messages(), 5);
    let mut seen = Vec::new();
    while let Some(delivery) = browser.next().await.expect("the broker answers") {
        seen.push(delivery);
    }
    assert_eq!(ids(&seen), ["0", "1", "2", "3", "4"], "each once");
    browser.ack(seen[1].token).await.expect("acked");
    browser.ack(seen[4].token).await.expect("acked");
    browser.close().await.expect("closed");
    let mut consumer = consume(&bus, "shelf", 10);
    assert_eq!(ids(&take(&mut consumer, 3).await), ["0", "2", "3"]);
    let missing = bus.browse("nowhere").await.err();
    assert!(matches!(missing, Some(dat_bus::BrowseError::Refused(_))), "{missing:?}");
    bus.close().await;
}
