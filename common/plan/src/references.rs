//! References: `{"$from": "<step>", "path": "<pointer>"}` in parameters, replaced by a result. Pure: what a result is comes
//! from outside, and so may be anything.

use serde_json::{Map, Value};

/// A reference that has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the result of step {step} has {found} at '{path}'")]
pub struct Dangling {
    step: String,
    path: String,
    found: &'static str,
}

/// The keys of the steps that parameters take results from.
pub fn named(parameters: &Map<String, Value>, into: &mut Vec<String>) {
    if let Some(step) = parameters.get("$from").and_then(Value::as_str) {
        into.push(step.to_owned());
        return;
    }
    for value in parameters.values() {
        named_in(value, into);
    }
}

fn named_in(value: &Value, into: &mut Vec<String>) {
    match value {
        Value::Object(map) => match map.get("$from") {
            Some(step) => into.extend(step.as_str().map(str::to_owned)),
            None => named(map, into),
        },
        Value::Array(items) => items.iter().for_each(|item| named_in(item, into)),
        _ => {}
    }
}

/// Parameters with every reference replaced.
pub fn resolve(
    parameters: &Map<String, Value>,
    results: &Map<String, Value>,
) -> Result<Map<String, Value>, Dangling> {
    resolve_map(parameters, &mut |reference| lookup(reference, results))
}

/// The same for an undo, which runs whatever came of its step: what has no value is `null`.
#[must_use]
pub fn resolve_or_null(parameters: &Map<String, Value>, results: &Map<String, Value>) -> Map<String, Value> {
    resolve_map(parameters, &mut |reference| Ok(lookup(reference, results).unwrap_or(Value::Null)))
        .unwrap_or_default()
}

/// What has no value in these results, each in words.
#[must_use]
pub fn unresolved(parameters: &Map<String, Value>, results: &Map<String, Value>) -> Vec<String> {
    let mut missing = Vec::new();
    // Never fails: nothing is a value too.
    let _ = resolve_map(parameters, &mut |reference| {
        Ok(lookup(reference, results).unwrap_or_else(|dangling| {
            missing.push(format!("{} of {}", dangling.path, dangling.step));
            Value::Null
        }))
    });
    missing
}

fn lookup(reference: &Map<String, Value>, results: &Map<String, Value>) -> Result<Value, Dangling> {
    let text = |field: &str| reference.get(field).and_then(Value::as_str).unwrap_or_default();
    let (step, path) = (text("$from"), text("path"));
    results.get(step).and_then(|result| result.pointer(path)).cloned().ok_or_else(|| Dangling {
        step: step.to_owned(),
        path: path.to_owned(),
        found: "nothing",
    })
}

type Lookup<'a> = dyn FnMut(&Map<String, Value>) -> Result<Value, Dangling> + 'a;

fn resolve_map(
    parameters: &Map<String, Value>,
    look: &mut Lookup<'_>,
) -> Result<Map<String, Value>, Dangling> {
    if let Some(step) = parameters.get("$from") {
        // The parameters as a whole are a reference: what it gives must be an object too.
        return match look(parameters)? {
            Value::Object(map) => Ok(map),
            _ => Err(Dangling {
                step: step.as_str().unwrap_or_default().to_owned(),
                path: parameters.get("path").and_then(Value::as_str).unwrap_or_default().to_owned(),
                found: "no object",
            }),
        };
    }
    parameters.iter().map(|(key, value)| Ok((key.clone(), resolve_value(value, look)?))).collect()
}

fn resolve_value(value: &Value, look: &mut Lookup<'_>) -> Result<Value, Dangling> {
    Ok(match value {
        Value::Object(map) if map.contains_key("$from") => look(map)?,
        Value::Object(map) => Value::Object(resolve_map(map, look)?),
        Value::Array(items) => {
            Value::Array(items.iter().map(|item| resolve_value(item, look)).collect::<Result<_, _>>()?)
        }
        other => other.clone(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        match value {
            Value::Object(map) => map,
            _ => Map::new(),
        }
    }

    #[test]
    fn a_reference_takes_the_value_it_points_at_wherever_it_stands() {
        let parameters = map(json!({
            "id": {"$from": "a", "path": "/id"},
            "deep": [{"all": {"$from": "b", "path": ""}}],
            "plain": 1,
        }));
        let results = map(json!({"a": {"id": "L-1"}, "b": {"x": [1, 2]}}));
        let resolved = resolve(&parameters, &results).expect("both are there");
        assert_eq!(
            Value::Object(resolved),
            json!({"id": "L-1", "deep": [{"all": {"x": [1, 2]}}], "plain": 1})
        );
        let mut steps = Vec::new();
        named(&parameters, &mut steps);
        steps.sort();
        assert_eq!(steps, ["a", "b"]);
    }

    #[test]
    fn all_parameters_can_be_one_reference_to_an_object() {
        let parameters = map(json!({"$from": "a", "path": "/x"}));
        let resolved = resolve(&parameters, &map(json!({"a": {"x": {"y": 1}}}))).expect("an object");
        assert_eq!(Value::Object(resolved), json!({"y": 1}));
        let wrong = resolve(&parameters, &map(json!({"a": {"x": 1}}))).expect_err("a number");
        assert_eq!(wrong.to_string(), "the result of step a has no object at '/x'");
    }

    #[test]
    fn a_reference_without_a_value_stops_an_action_and_not_an_undo() {
        let parameters = map(json!({"id": {"$from": "a", "path": "/id"}}));
        let nothing = Map::new();
        assert_eq!(
            resolve(&parameters, &nothing).expect_err("a has no result").to_string(),
            "the result of step a has nothing at '/id'"
        );
        assert_eq!(Value::Object(resolve_or_null(&parameters, &nothing)), json!({"id": null}));
        assert_eq!(unresolved(&parameters, &nothing), ["/id of a"]);
        assert_eq!(unresolved(&parameters, &map(json!({"a": {"id": 1}}))), [""; 0]);
    }
}
