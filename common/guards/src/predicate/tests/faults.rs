//! What is refused when a plan is registered.

use super::*;

#[test]
fn unknown_names_and_fields_are_found_with_their_place() {
    for (expression, name, column) in [
        ("budgett.spent < 5", "budgett", 1),
        ("budget.spnt < 5", "budget.spnt", 7),
        ("true && plan.mode == 'live'", "plan.mode", 13),
        ("step.connector == 'mux'", "step.connector", 5),
        ("'é' == tenant && x", "x", 18),
        ("results.all(k, l == '')", "l", 16),
        ("[1].all(k, true) && k == 1", "k", 21),
        ("int == int", "int", 1),
        (".tenant == 'acme'", ".tenant", 2),
        ("a.b.c()", "a", 1),
        ("optional.of(1).hasValue()", "optional", 1),
    ] {
        let PredicateFault::Unknown { at, name: found, .. } = fault(expression) else {
            panic!("'{expression}': {}", fault(expression))
        };
        assert_eq!((found.as_str(), at.line), (name, 1), "{expression}");
        assert_eq!(at.column, column, "{expression}");
    }
}

#[test]
fn known_types_that_do_not_fit_are_found() {
    for expression in [
        "budget.spent < 'five'",
        "budget.spent == tenant",
        "tenant + 1 == 'acme1'",
        "budget.spent + 1.5 > 2.0",
        "now < 5",
        "now + now > now",
        "step.index + true == 1",
        "!budget.spent",
        "budget.spent && true",
        "budget.spent ? true : false",
        "-tenant == 'x'",
        "5 in ['a', 'b']",
        "5 in tenant",
        "5 in results",
        "tenant.all(c, c == 'x')",
        "tenant.name == 'x'",
        "budget == 5",
        "budget['spent'] < 5",
        "has(budget.spent)",
        "results[0] == 1",
        "[1].all(budget, budget > 0)",
        "[1, 2].all(x, x == 'a')",
        "plan.labels.team > 5",
        "tenant.startsWith(5)",
        "size(budget.spent) > 1",
        "string(results) == ''",
        "timestamp('tomorrow') < now",
        "duration('soon') < duration('1h')",
        "{'a': 1}.a == 1",
        "tenant.matches('a.*')",
        "now() > now",
        "random() > 1",
        "type(tenant) == type('a')",
        "dyn(tenant) == 5",
        "tenant.getHours() == 1",
        "null == tenant",
    ] {
        let found = fault(expression);
        assert!(matches!(found, PredicateFault::Misuse { .. }), "'{expression}': {found:?}");
    }
}

#[test]
fn a_predicate_is_boolean() {
    for expression in
        ["budget.spent + 1", "tenant", "results", "[true]", "results.map(k, k)", "null", "now - now"]
    {
        assert!(matches!(fault(expression), PredicateFault::NotBoolean { .. }), "{expression}");
    }
}

#[test]
fn syntax_faults_say_where() {
    let PredicateFault::Syntax { at, .. } = fault("tenant ==\n  'a' 'b'") else { panic!() };
    assert_eq!((at.line, at.column), (2, 7));
    for expression in ["a ; b", "1 +", "'open", "a.?b", "[?a]", "tenant == `x`", " ", "x.all(1, true)"] {
        assert!(
            matches!(fault(expression), PredicateFault::Syntax { .. }),
            "{expression}: {}",
            fault(expression)
        );
    }
    assert!(matches!(fault(""), PredicateFault::Size { bytes: 0, .. }));
    assert!(matches!(fault(&"x".repeat(2_049)), PredicateFault::Size { bytes: 2_049, limit: 2_048 }));
}

#[test]
fn submissions_are_judged_in_words() {
    assert_eq!(CelCheck.check("budget.spent * 5 < budget.amount"), Ok(()));
    assert_eq!(
        CelCheck.check("budgett.spent < 5").unwrap_err(),
        "'budgett' is not known, line 1, column 1: a predicate sees now, plan, tenant, step, budget and results"
    );
    let words = CelCheck.check("budget.spent + 1").unwrap_err();
    assert_eq!(words, "a predicate is true or false, this one is int: compare it with something");
}
