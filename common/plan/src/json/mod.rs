//! JSON text from outside, read into a value, with everything found on the way that the contract refuses.
//!
//! `serde_json` alone silently keeps the last of two equal keys, so that what one reader approves is not what another
//! executes. Here a repeated key is a fault, and reading goes on behind it.

mod faults;
mod place;
mod reader;

use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::document::limits;
use crate::fault::{Fault, FaultCode};

pub(crate) use faults::{Faults, quoted};
pub(crate) use place::Place;
use reader::Reader;

/// A text that is JSON, and what is wrong with it nevertheless.
#[derive(Debug, Clone, PartialEq)]
pub struct Parsed {
    /// The value; of fields with the same key, the first.
    pub value: Value,
    /// Repeated keys, text that cannot be stored, numbers that have no exact canonical form; at most 1,000.
    pub faults: Vec<Fault>,
}

/// Reads a body.
///
/// Fails, with a single fault at `""`, only where there is no value to go on with: a body of more than
/// [`limits::BODY_BYTES`], text that is not UTF-8 or not JSON, or values nested deeper than [`limits::DEPTH`].
///
/// Everything else is found in one pass, each with the pointer of its place:
/// * `duplicate`: a key that its object already had;
/// * `unstorable`: U+0000 in a key or a text, which PostgreSQL cannot store;
/// * `out_of_range`: an integer beyond ±(2^53 − 1). RFC 8785 writes numbers as doubles, so two plans that differ in
///   such an integer would have one hash; it has to be sent as text. Also a key that the JSON library reserves.
pub fn parse(body: &[u8]) -> Result<Parsed, Vec<Fault>> {
    let mut faults = Faults::default();
    let value = read(body, &mut faults)?;
    Ok(Parsed { value, faults: faults.into_list() })
}

/// As [`parse`], with the faults left where later checks add to them.
pub(crate) fn read(body: &[u8], faults: &mut Faults) -> Result<Value, Vec<Fault>> {
    let fail = |code, message: String| Err(vec![Fault::new("", code, message)]);
    if body.len() > limits::BODY_BYTES {
        let message = format!("{} bytes, more than the {} allowed", body.len(), limits::BODY_BYTES);
        return fail(FaultCode::TooLarge, message);
    }
    let text = match std::str::from_utf8(body) {
        Ok(text) => text,
        Err(error) => return fail(FaultCode::NotJson, format!("not UTF-8: {error}")),
    };
    let mut too_deep = false;
    let mut source = serde_json::Deserializer::from_str(text);
    let reader = Reader::new(&Place::ROOT, faults, &mut too_deep);
    let value = reader.deserialize(&mut source).and_then(|value| source.end().map(|()| value));
    match value {
        Ok(value) => Ok(value),
        Err(_) if too_deep => {
            fail(FaultCode::TooLarge, format!("values nested deeper than the {} allowed", limits::DEPTH))
        }
        Err(error) => fail(FaultCode::NotJson, format!("not JSON: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(body: &str) -> Vec<(String, FaultCode)> {
        let list = match parse(body.as_bytes()) {
            Ok(parsed) => parsed.faults,
            Err(faults) => faults,
        };
        list.into_iter().map(|fault| (fault.pointer, fault.code)).collect()
    }

    fn at(pointer: &str, code: FaultCode) -> (String, FaultCode) {
        (pointer.to_owned(), code)
    }

    #[test]
    fn every_repeated_key_is_found_and_the_first_value_kept() {
        let body = r#"{"a": 1, "a": 2, "b": [{"c/d": 1, "c/d": {"e": 0, "e": 0}}], "a": 3}"#;
        let found = [("/a", 1), ("/b/0/c~1d", 1), ("/b/0/c~1d/e", 1)];
        let expected: Vec<_> = found.iter().map(|(place, _)| at(place, FaultCode::Duplicate)).collect();
        assert_eq!(faults(body), expected);
        let value = parse(body.as_bytes()).map(|parsed| parsed.value["a"].clone());
        assert_eq!(value, Ok(Value::from(1)));
    }

    #[test]
    fn a_key_may_stand_in_several_objects() {
        assert_eq!(faults(r#"{"a": {"a": 1}, "b": [{"a": 1}, {"a": 1}]}"#), []);
    }

    #[test]
    fn every_nul_is_found_in_keys_and_texts() {
        let body = r#"{"a": ["x", "y\u0000"], "k\u0000": 1}"#;
        let expected = [at("/a/1", FaultCode::Unstorable), at("/k\\u0000", FaultCode::Unstorable)];
        assert_eq!(faults(body), expected);
    }

    #[test]
    fn an_integer_without_exact_canonical_form_is_refused() {
        let body = r#"{"a": 9007199254740991, "b": 9007199254740992, "c": -9007199254740992, "d": 18446744073709551615, "e": 1e300}"#;
        let expected: Vec<_> = ["/b", "/c", "/d"].map(|place| at(place, FaultCode::OutOfRange)).into();
        assert_eq!(faults(body), expected);
    }

    #[test]
    fn a_key_that_the_library_reads_as_a_command_is_refused() {
        let body = r#"{"a": {"$serde_json::private::RawValue": "{\"$from\": \"later\"}"}}"#;
        assert_eq!(faults(body), [at("/a/$serde_json::private::RawValue", FaultCode::OutOfRange)]);
    }

    #[test]
    fn depth_is_bounded_without_recursion_to_the_end() {
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(faults(&nested(limits::DEPTH)), []);
        assert_eq!(faults(&nested(limits::DEPTH + 1)), [at("", FaultCode::TooLarge)]);
        assert_eq!(faults(&"[".repeat(limits::BODY_BYTES)), [at("", FaultCode::TooLarge)]);
        assert_eq!(faults(&r#"{"a":"#.repeat(100_000)), [at("", FaultCode::TooLarge)]);
    }

    #[test]
    fn what_is_not_json_says_where() {
        for body in ["", "{", "[1,]", "{} {}", "nul", "{\"a\": 1e999}", r#""\ud800""#, "NaN"] {
            assert_eq!(faults(body), [at("", FaultCode::NotJson)], "{body}");
        }
        assert!(parse(b"\"\xff\"").is_err_and(|list| list[0].code == FaultCode::NotJson));
        let message = parse(b"{\n\"a\" 1}").map_err(|list| list[0].message.clone());
        assert!(message.is_err_and(|message| message.contains("line 2 column 5")));
    }

    #[test]
    fn a_body_over_the_limit_is_not_read() {
        let body = vec![b' '; limits::BODY_BYTES + 1];
        assert!(parse(&body).is_err_and(|list| list[0].code == FaultCode::TooLarge));
    }

    #[test]
    fn every_kind_of_value_is_read_as_serde_json_reads_it() {
        let body = r#"{"a": [null, true, -1, 7, 0.1, -0.0, "ä\n", {}], "b": 123456789012345678901234567890}"#;
        let parsed = parse(body.as_bytes()).map(|parsed| parsed.value).ok();
        assert_eq!(parsed, serde_json::from_str(body).ok());
    }
}
