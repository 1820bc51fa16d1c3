//! What an expression may cost.

use super::*;

/// Every way to nest, as deep as 2,048 bytes allow: refused, on any thread, without taking the process down.
#[test]
fn hostile_nesting_is_refused() {
    let deep = |unit: &str, tail: &str| {
        format!("{}{tail}", unit.repeat((PREDICATE_BYTES - tail.len()) / unit.len()))
    };
    for text in [
        deep("(", ""),
        format!("{}true{}", "(".repeat(1_000), ")".repeat(1_000)),
        format!("{}true{}", "(".repeat(40), ")".repeat(40)),
        deep("[", ""),
        deep("{a:", ""),
        deep("!-", "true"),
        deep("-", "1"),
        deep("true?true:", "true"),
        deep("f(", ""),
        deep("results.all(x,", ""),
        format!("results{}", ".b".repeat(1_000)),
        format!("1{} == 1", "+1".repeat(1_000)),
        format!("true{}", "&&true".repeat(300)),
        format!("1{}", " in a".repeat(300)),
        format!("results{}", ".map(x,x)".repeat(200)),
        deep("\u{1F600}", ""),
        deep("\0", ""),
        deep("'\\", ""),
        deep("`", ""),
    ] {
        assert!(Predicate::compile(&text).is_err(), "{text}");
    }
}

/// The deepest expression that is let through, on a small stack: the workers' threads have 2 MiB.
#[test]
fn the_deepest_expression_evaluates() {
    let sum = format!("1{} == 19", " + 1".repeat(18));
    let nested = format!("{}1{} == 1", "size([".repeat(9), "])".repeat(9));
    let child =
        std::thread::Builder::new().stack_size(1024 * 1024).spawn(move || [outcome(&sum), outcome(&nested)]);
    assert_eq!(child.unwrap().join().unwrap(), [Outcome::Holds, Outcome::Holds]);
}

#[test]
fn what_nests_too_deep_is_told_so() {
    let brackets = fault(&"(".repeat(40));
    assert!(
        matches!(&brackets, PredicateFault::TooComplex { what } if what.contains("32 deep")),
        "{brackets}"
    );
    let sum = fault(&format!("1{} == 25", " + 1".repeat(24)));
    assert!(matches!(&sum, PredicateFault::TooComplex { what } if what.contains("20 deep")), "{sum}");
    let parts = fault(&format!("true{}", " && true".repeat(70)));
    assert!(matches!(&parts, PredicateFault::TooComplex { what } if what.contains("128 parts")), "{parts}");
}

#[test]
fn loops_are_bounded() {
    for expression in [
        "results.all(a, results.all(b, results.all(c, true)))",
        "results.all(a, results.all(b, 5 in step.parameters.tags))",
        "[step.parameters.tags].all(l, results.all(a, a in l))",
    ] {
        assert!(matches!(fault(expression), PredicateFault::TooComplex { .. }), "{expression}");
    }
    for expression in
        ["results.all(a, [1, 2].all(b, true))", "results.all(a, results.map(k, k).all(b, true))"]
    {
        assert!(matches!(fault(expression), PredicateFault::Misuse { .. }), "{expression}");
    }
}

#[test]
fn reading_is_metered() {
    let mut inputs = inputs();
    inputs.results = (0..10_000).map(|n| (format!("s{n}"), json!({"ok": true}))).collect();
    let linear = Predicate::compile("results.all(k, results[k].ok)").unwrap();
    assert_eq!(linear.evaluate(&inputs), Outcome::Holds);
    let absorbed = "results.all(k, results.all(l, true)) || true";
    for square in ["results.all(a, results.all(b, results[b].ok))", absorbed] {
        let Outcome::Fails(reason) = Predicate::compile(square).unwrap().evaluate(&inputs) else {
            panic!("{square}")
        };
        assert!(reason.contains("reads more than 50000 values"), "{reason}");
    }
    inputs.results = object(json!({"a": {"text": "x".repeat(70_000)}}));
    let Outcome::Fails(reason) = Predicate::compile("size(results.a.text) > 1").unwrap().evaluate(&inputs)
    else {
        panic!()
    };
    assert!(reason.contains("70000 bytes"), "{reason}");
}

#[test]
fn a_reason_fits_into_an_event() {
    let expression = format!("tenant == '{}'", "é".repeat(900));
    let Outcome::Fails(reason) = outcome(&expression) else { panic!() };
    assert_eq!(reason.chars().count(), 301);
}
