//! The command as a process: help, exit statuses and what it prints. No server is needed.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

const PLANS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../common/plan/tests/plans");

fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dat"));
    command.args(arguments).env_clear();
    command
}

fn dat(arguments: &[&str]) -> Output {
    command(arguments).output().expect("dat starts")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("JSON on stdout")
}

#[test]
fn help_lists_every_command() {
    let output = dat(&["--help"]);
    assert!(output.status.success());
    let help = stdout(&output);
    for name in [
        "worker", "migrate", "topology", "plan", "approve", "budget", "control", "audit", "sandbox", "schema",
    ] {
        assert!(help.lines().any(|line| line.trim_start().starts_with(name)), "{name} is missing:\n{help}");
    }
}

#[test]
fn help_of_a_command_teaches_by_example() {
    for path in [&["worker"][..], &["plan", "submit"], &["control", "connector", "disable"], &["approve"]] {
        let help = stdout(&dat(&[path, &["--help"]].concat()));
        assert!(help.contains("Examples:\n  dat "), "{path:?}:\n{help}");
    }
}

#[test]
fn a_worker_names_its_roles() {
    let help = stdout(&dat(&["worker", "--help"]));
    for role in [
        "plan-submitted",
        "plan-approved",
        "plan-rejected",
        "step-dispatch",
        "step-failed",
        "relay",
        "sweeper",
    ] {
        assert!(help.contains(role), "{role} is missing:\n{help}");
    }
}

#[test]
fn a_valid_plan_shows_its_hash_and_what_it_may_cost() {
    let output = dat(&["plan", "validate", &format!("{PLANS}/defaults.json")]);
    let said = stdout(&output);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("defaults.json: valid") && said.contains("sha256:"), "{said}");
}

#[test]
fn an_invalid_plan_shows_every_fault_with_its_pointer() {
    let expected = std::fs::read_to_string(format!("{PLANS}/invalid/EXPECTED.json")).expect("expectations");
    let expected: Value = serde_json::from_str(&expected).expect("JSON");
    for (file, pointers) in expected.as_object().expect("an object") {
        let path = format!("{PLANS}/invalid/{file}");
        let output = dat(&["plan", "validate", "--output", "json", &path]);
        assert_eq!(output.status.code(), Some(1), "{file}");
        let report = json(&output);
        let faults = report[0]["faults"].as_array().expect("faults");
        let found: std::collections::BTreeSet<&str> =
            faults.iter().filter_map(|fault| fault["pointer"].as_str()).collect();
        for pointer in pointers.as_array().expect("pointers").iter().filter_map(Value::as_str) {
            assert!(found.contains(pointer), "{file}: {pointer} is not in {found:?}");
        }
        let lines = stdout(&dat(&["plan", "validate", &path]));
        assert_eq!(lines.lines().count(), faults.len() + 1, "{file}: one line a fault\n{lines}");
    }
}

#[test]
fn a_plan_is_read_from_standard_input() {
    let mut child = command(&["plan", "validate", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("dat starts");
    child.stdin.take().expect("piped").write_all(b"{\"plan_id\": 7").expect("written");
    let output = child.wait_with_output().expect("dat ends");
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("(not_json)"), "{}", stdout(&output));
}

#[test]
fn one_bad_file_of_several_is_a_failure() {
    let (good, bad) = (format!("{PLANS}/defaults.json"), format!("{PLANS}/invalid/unstorable-text.json"));
    let output = dat(&["plan", "validate", &good, &bad, "--output", "json"]);
    assert_eq!(output.status.code(), Some(1));
    let valid: Vec<bool> =
        json(&output).as_array().expect("reports").iter().filter_map(|r| r["valid"].as_bool()).collect();
    assert_eq!(valid, [true, false]);
}

#[test]
fn nothing_invalid_is_submitted() {
    let output = dat(&["plan", "submit", &format!("{PLANS}/invalid/unstorable-text.json")]);
    assert_eq!(output.status.code(), Some(1));
    assert!(stdout(&output).contains("(unstorable)"), "{}", stdout(&output));
    assert!(stderr(&output).starts_with("error: nothing was submitted"), "{}", stderr(&output));
}

#[test]
fn schemas_are_json() {
    for (message, field) in [("plan", "steps"), ("verdict", "plan_hash")] {
        let output = dat(&["schema", message]);
        assert!(output.status.success());
        assert!(json(&output)["properties"][field].is_object(), "{message}");
    }
}

#[test]
fn the_topology_is_printed_with_its_namespace() {
    let output = dat(&["topology", "print", "--output", "json", "--namespace", "staging"]);
    assert!(output.status.success(), "{}", stderr(&output));
    assert!(json(&output).to_string().contains("staging"));
}

#[test]
fn a_database_that_is_away_is_named_without_its_password() {
    // Nothing listens on the port that the system reserves for nobody.
    let url = "postgres://dat:secret@127.0.0.1:1/dat";
    let output = dat(&["plan", "list", "--database-url", url]);
    assert_eq!(output.status.code(), Some(1));
    let said = stderr(&output);
    assert!(said.starts_with("error: PostgreSQL at 127.0.0.1:1/dat cannot be used"), "{said}");
    assert!(said.contains("DATABASE_URL") && !said.contains("secret"), "{said}");
    assert_eq!(said.lines().count(), 1, "{said}");
}

#[test]
fn wrong_usage_has_a_status_of_its_own() {
    for wrong in [
        &["plan", "show", "not-a-plan"][..],
        &["control", "pause"],
        &[
            "budget",
            "set",
            "--tenant",
            "a",
            "--currency",
            "USD",
            "--period",
            "day",
            "--amount",
            "1",
            "--reason",
            "r",
        ],
        &["plan", "list", "--database-url", "nonsense"],
    ] {
        assert_eq!(dat(wrong).status.code(), Some(2), "{wrong:?}");
    }
}
