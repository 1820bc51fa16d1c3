//! Documents broken at random places: no panic, and what passes is what the types can hold.

use dat_plan::{FaultCode, PlanDocument};
use serde_json::{Value, json};

use super::{document, edited, submit};

/// The pointers of all values below one, the shallow before the deep.
fn places(value: &Value, pointer: &str, found: &mut Vec<String>) {
    let escape = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let inner: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (escape(name), value)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(index, item)| (index.to_string(), item)).collect()
        }
        _ => vec![],
    };
    for (name, value) in inner {
        let pointer = format!("{pointer}/{name}");
        found.push(pointer.clone());
        places(value, &pointer, found);
    }
}

/// Values that a field may be given; most are wrong in most places, and some are right in some.
fn replacements() -> Vec<Value> {
    vec![
        json!(null),
        json!(true),
        json!(0),
        json!(-1),
        json!(1.5),
        json!(u64::MAX),
        json!(1e300),
        json!(""),
        json!("a"),
        json!("b"),
        json!("mux"),
        json!("live"),
        json!("2026-11-22T00:00:00Z"),
        json!([]),
        json!(["a"]),
        json!([["a"]]),
        json!({}),
        json!({"live": null}),
        json!({"$from": "a", "path": ""}),
        json!({"$serde_json::private::RawValue": "1"}),
    ]
}

/// Should types and checks disagree, the answer is a fault of the whole, which no document here may bring about.
fn assert_sound(body: &str) {
    match submit(body.as_bytes()) {
        Ok(checked) => {
            let read = serde_json::from_str::<PlanDocument>(body).ok();
            assert_eq!(read.as_ref(), Some(&checked.document), "{body}");
        }
        Err(faults) => {
            assert!(!faults.is_empty());
            let whole =
                faults.iter().find(|fault| fault.pointer.is_empty() && fault.code == FaultCode::WrongType);
            assert_eq!(whole, None, "{body}");
        }
    }
}

#[test]
fn every_value_replaced_by_every_other_is_answered() {
    let plan = document("every-field.json");
    let mut found = Vec::new();
    places(&plan, "", &mut found);
    for place in &found {
        assert_sound(&edited(&plan, place, None).to_string());
        for value in replacements() {
            assert_sound(&edited(&plan, place, Some(value)).to_string());
        }
    }
}

#[test]
fn many_replacements_at_once_are_answered() {
    let mut random = fastrand::Rng::with_seed(11);
    for _ in 0..2_000 {
        let mut plan = document("every-field.json");
        for _ in 0..random.usize(1..6) {
            let mut found = Vec::new();
            places(&plan, "", &mut found);
            let values = replacements();
            let value = values.get(random.usize(0..values.len() + 4)).cloned();
            plan = edited(&plan, &found[random.usize(0..found.len())], value);
        }
        assert_sound(&plan.to_string());
    }
}

#[test]
fn text_cut_or_broken_anywhere_is_answered() {
    let text = document("every-field.json").to_string();
    let mut random = fastrand::Rng::with_seed(13);
    for end in 0..text.len() {
        assert!(submit(&text.as_bytes()[..end]).is_err_and(|faults| faults[0].code == FaultCode::NotJson));
    }
    for _ in 0..2_000 {
        let mut bytes = text.clone().into_bytes();
        let at = random.usize(0..bytes.len());
        bytes[at] = random.u8(..);
        if let Ok(body) = String::from_utf8(bytes) {
            assert_sound(&body);
        }
    }
}
