//! A producer that is not Rust: the lines that the README shows, as they stand there.

use std::process::Stdio;

use dat_tests::{Fleet, FleetOptions, within};
use tokio::process::Command;

use crate::documents::root;

/// The README's block of Python that speaks AMQP.
fn readme_lines() -> String {
    let readme = std::fs::read_to_string(root().join("README.md")).expect("the README");
    let blocks = readme.split("```python\n").skip(1).filter_map(|rest| rest.split("\n```").next());
    let found: Vec<&str> = blocks.filter(|block| block.contains("pika")).collect();
    assert_eq!(found.len(), 1, "the README has one block of Python with pika");
    found.concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_lines_of_the_readme_submit_a_plan_and_wait_for_its_end() {
    // They have the names of the contract, without a prefix.
    let fleet = Fleet::start(FleetOptions { namespaced: false, ..FleetOptions::default() }).await;
    let python = std::env::var("DAT_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = Command::new(&python)
        .args(["-c", &readme_lines()])
        .env("AMQP_URL", &fleet.realm().amqp_url)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = within(format_args!("{python} -c …"), run).await.expect("there is a Python");
    let printed = String::from_utf8_lossy(&output.stdout);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{python} ({}) printed {printed}{complaint}", output.status);
    let last = printed.lines().last().unwrap_or_default();
    assert!(last.starts_with("plan.completed"), "the last line is {last}, of\n{printed}");
    fleet.check_everything().await;
}
