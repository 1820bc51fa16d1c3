//! The console: what its pages and its API show, page by page, and what they do not do.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};

use dat_plan::PlanState;
use dat_tests::{Fleet, PlanDraft, StepDraft};
use serde_json::{Value, json};
use ureq::Agent;
use ureq::http::Response;

/// What a stranger may call a plan.
const HOSTILE: &str = "<script>alert(1)</script> \"onload='x' &amp;";

/// One request, whatever its status.
async fn request(
    method: &'static str,
    url: String,
    headers: &'static [(&'static str, &'static str)],
) -> Response<String> {
    let send = move || {
        let agent: Agent = Agent::config_builder()
            .http_status_as_error(false)
            .allow_non_standard_methods(true)
            .build()
            .into();
        let mut request = ureq::http::Request::builder().method(method).uri(&url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = agent.run(request.body(()).expect("a request")).expect("the console answers");
        let (parts, mut body) = answer.into_parts();
        Response::from_parts(parts, body.read_to_string().expect("a text"))
    };
    tokio::task::spawn_blocking(send).await.expect("the request ends")
}

async fn get(url: String) -> Response<String> {
    request("GET", url, &[]).await
}

async fn json_of(url: String) -> Value {
    let answer = get(url).await;
    assert_eq!(answer.status(), 200, "{}", answer.body());
    serde_json::from_str(answer.body()).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pages_show_a_plan_and_what_strangers_wrote_is_text() {
    let fleet = Fleet::standard().await;
    let console = fleet.spawn_console().await;
    let producer = fleet.producer().await;
    let hostile = StepDraft::new("second", &json!({"outcome": "refuse", "message": HOSTILE}));
    let draft = PlanDraft::new(HOSTILE).step(StepDraft::priced("first", 10)).step(hostile);
    let plan = producer.submit(&draft.document()).await;
    assert_eq!(producer.wait_for_end(plan).await.state, PlanState::Aborted);

    let list = get(format!("{}/", console.url())).await;
    let whole = get(format!("{}/plans/{}", console.url(), plan.plan_id)).await;
    let budgets = get(format!("{}/budgets", console.url())).await;
    for page in [&list, &whole, &budgets] {
        assert_eq!(page.status(), 200, "{}", page.body());
        let policy = page.headers()["content-security-policy"].to_str().expect("a text");
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
        assert!(
            !page.body().contains("<script>alert") && !page.body().contains("\"onload"),
            "{}",
            page.body()
        );
        assert!(!page.body().contains("style=\"") && !page.body().contains("http://"), "{}", page.body());
    }
    assert!(list.body().contains("&lt;script&gt;alert(1)"), "{}", list.body());
    for shown in ["first", "second", "aborted", "class=\"bar ok\"", "undo ", "acme", "&lt;script&gt;"] {
        assert!(whole.body().contains(shown), "no {shown}: {}", whole.body());
    }
    for (path, media_type) in [("/style.css", "text/css"), ("/script.js", "text/javascript")] {
        let file = get(format!("{}{path}", console.url())).await;
        assert_eq!(
            (file.status().as_u16(), file.headers()["content-type"].to_str().ok()),
            (200, Some(media_type))
        );
    }

    // It changes nothing, and answers to nobody who came by another name.
    for method in ["POST", "PUT", "DELETE"] {
        assert_eq!(request(method, format!("{}/", console.url()), &[]).await.status(), 405, "{method}");
    }
    let elsewhere = request("GET", format!("{}/", console.url()), &[("host", "evil.example")]).await;
    assert_eq!(elsewhere.status(), 421, "{}", elsewhere.body());
    assert_eq!(get(format!("{}/nowhere", console.url())).await.status(), 404);
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_pages_filters_and_says_what_has_not_changed() {
    let fleet = Fleet::standard().await;
    let console = fleet.spawn_console().await;
    let (api, producer) = (format!("{}/api/v1", console.url()), fleet.producer().await);
    let mut plans = Vec::new();
    for n in 0..5 {
        plans.push(producer.submit(&PlanDraft::in_order(&format!("Plan 100% {n}"), 1).document()).await);
    }
    producer.wait_for_ends(&plans).await;

    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = json_of(format!("{api}/plans?limit=2&after={after}")).await;
        seen.extend(page["plans"].as_array().expect("plans").iter().map(|plan| plan["name"].to_string()));
        // What comes meanwhile moves no page.
        let more = producer.submit(&PlanDraft::in_order("later", 1).document()).await;
        producer.wait_for_end(more).await;
        match page["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => break,
        }
    }
    assert_eq!((seen.len(), seen.iter().collect::<BTreeSet<_>>().len()), (5, 5), "{seen:?}");

    for (query, count) in [
        ("search=100%25", 5),
        ("search=PLAN+100%25+3", 1),
        ("search=100_", 0),
        ("state=completed&search=Plan", 5),
        ("state=stuck", 0),
        ("tenant=nobody", 0),
        (&format!("search={}", &plans[0].plan_id.to_string()[..13]), 1),
    ] {
        let page = json_of(format!("{api}/plans?{query}")).await;
        assert_eq!(page["plans"].as_array().map(Vec::len), Some(count), "{query}: {page}");
    }
    for (path, status) in [
        ("plans?state=sideways", 400),
        ("plans?after=yesterday", 400),
        ("plans?limit=many", 400),
        ("nowhere", 404),
        ("plans/7", 404),
        ("plans/00000000-0000-4000-8000-000000000000", 404),
    ] {
        let wrong = get(format!("{api}/{path}")).await;
        assert_eq!(wrong.status(), status, "{path}: {}", wrong.body());
        assert_eq!(wrong.headers()["content-type"], "application/problem+json", "{path}");
    }

    // Each path of the document answers, with what it says.
    let document = json_of(format!("{api}/openapi.json")).await;
    let paths = document["paths"].as_object().expect("paths");
    assert_eq!(paths.len(), 6);
    for (path, described) in paths.iter().filter(|(path, _)| !path.ends_with("/live")) {
        let url = format!("{}{}", console.url(), path.replace("{plan}", &plans[0].plan_id.to_string()));
        let answer = json_of(url).await;
        let schema = &described["get"]["responses"]["200"]["content"]["application/json"]["schema"];
        match schema["$ref"].as_str().and_then(|place| document.pointer(place.trim_start_matches('#'))) {
            Some(named) => {
                let fields = named["properties"].as_object().expect("fields").keys();
                let said = answer.as_object().expect("an object").keys();
                assert_eq!(fields.collect::<BTreeSet<_>>(), said.collect::<BTreeSet<_>>(), "{path}");
            }
            None => assert!(schema["type"] == "array" && answer.is_array(), "{path}: {schema}"),
        }
    }

    let first = get(format!("{api}/plans/{}", plans[0].plan_id)).await;
    let tag: &'static str = String::leak(first.headers()["etag"].to_str().expect("a tag").to_owned());
    let headers: &'static [(&str, &str)] = Vec::leak(vec![("if-none-match", tag)]);
    let again = request("GET", format!("{api}/plans/{}", plans[0].plan_id), headers).await;
    assert_eq!((again.status().as_u16(), again.body().as_str()), (304, ""));
    fleet.check_everything().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_follows_a_plan_hears_each_event_once_and_in_order() {
    let fleet = Fleet::standard().await;
    let console = fleet.spawn_console().await;
    let (producer, sandbox) = (fleet.producer().await, fleet.sandbox());
    sandbox.hold("test.act").await;
    let plan = producer.submit(&PlanDraft::in_order("followed", 2).document()).await;
    sandbox.wait_for_held(1).await;
    let url = format!("{}/api/v1/plans/{}/live?after=2", console.url(), plan.plan_id);
    let following = tokio::task::spawn_blocking(move || {
        let lines =
            BufReader::new(ureq::get(&url).call().expect("a stream").into_body().into_reader()).lines();
        let mut told: Vec<Value> = Vec::new();
        for line in lines.map_while(Result::ok) {
            let Some(data) = line.strip_prefix("data: ") else { continue };
            told.push(serde_json::from_str(data).expect("JSON"));
            if told.last().is_some_and(|event| event["kind"] == "plan.completed") {
                break;
            }
        }
        told
    });
    sandbox.release().await;
    producer.wait_for_end(plan).await;
    let told = following.await.expect("the stream is read");
    let sequences: Vec<i64> = told.iter().filter_map(|event| event["sequence"].as_i64()).collect();
    let last = *sequences.last().expect("events");
    assert_eq!(sequences, (3..=last).collect::<Vec<_>>());

    let read =
        json_of(format!("{}/api/v1/plans/{}/events?after=2&limit=3", console.url(), plan.plan_id)).await;
    assert_eq!(read["events"], json!(told[..3]), "the same as was told");
    assert_eq!(read["next"], 5);
    fleet.check_everything().await;
}
