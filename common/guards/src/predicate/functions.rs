//! Functions: the part of the CEL standard library that a predicate may call.
//!
//! An allow-list, held against `cel` 0.15.0: what is not here is refused when a plan is registered, so that an upgrade
//! of the crate adds nothing by itself. None reads a clock or draws a random number. Left out are `type`, `dyn`,
//! `bytes` and `optional.*`, which only serve to get round the checker; `matches` is not built in (no `regex`).

use super::kind::Kind;

/// The kind a call gives, or the reason it is refused.
///
/// `target` is what a member function is called on: `target.name(args)`.
pub(super) fn result(name: &str, target: Option<Kind>, args: &[Kind]) -> Result<Kind, String> {
    match (name, target, args) {
        ("size", Some(operand), []) | ("size", None, &[operand]) => {
            takes(name, operand, &[Kind::String, Kind::Bytes, ANY_LIST, ANY_MAP], Kind::Int)
        }
        ("contains" | "startsWith" | "endsWith", Some(text), [part]) => {
            takes(name, text, &[Kind::String], Kind::Bool)?;
            takes(name, *part, &[Kind::String], Kind::Bool)
        }
        (_, None, [from]) => conversion(name, *from),
        (_, Some(moment), zone) => part_of_time(name, moment, zone),
        _ => Err(unknown(name)),
    }
}

const ANY_LIST: Kind = Kind::List(&Kind::Dyn);
const ANY_MAP: Kind = Kind::Map(&Kind::Dyn);

fn conversion(name: &str, from: Kind) -> Result<Kind, String> {
    use Kind::{Bool, Bytes, Double, Duration, Int, String, Timestamp, Uint};
    match name {
        "int" => takes(name, from, &[Int, Uint, Double, String, Timestamp], Int),
        "uint" => takes(name, from, &[Int, Uint, Double, String], Uint),
        "double" => takes(name, from, &[Int, Uint, Double, String], Double),
        "string" => takes(name, from, &[Bool, Int, Uint, Double, String, Bytes, Timestamp, Duration], String),
        "bool" => takes(name, from, &[Bool, String], Bool),
        "timestamp" => takes(name, from, &[String, Timestamp, Int], Timestamp),
        "duration" => takes(name, from, &[String, Duration], Duration),
        _ => Err(unknown(name)),
    }
}

/// Parts of a moment, in UTC or in the time zone given; the last four also of a span.
fn part_of_time(name: &str, moment: Kind, zone: &[Kind]) -> Result<Kind, String> {
    let of_spans = match name {
        "getFullYear" | "getMonth" | "getDayOfYear" | "getDayOfMonth" | "getDate" | "getDayOfWeek" => false,
        "getHours" | "getMinutes" | "getSeconds" | "getMilliseconds" => true,
        _ => return Err(unknown(name)),
    };
    match zone {
        [] if of_spans => takes(name, moment, &[Kind::Timestamp, Kind::Duration], Kind::Int),
        [] => takes(name, moment, &[Kind::Timestamp], Kind::Int),
        [zone] => {
            takes(name, *zone, &[Kind::String], Kind::Int)?;
            takes(name, moment, &[Kind::Timestamp], Kind::Int)
        }
        _ => Err(unknown(name)),
    }
}

fn takes(name: &str, operand: Kind, accepted: &[Kind], gives: Kind) -> Result<Kind, String> {
    if accepted.iter().any(|kind| operand.may_be(*kind)) {
        return Ok(gives);
    }
    Err(format!("{name}() does not take {operand}"))
}

fn unknown(name: &str) -> String {
    format!("there is no function {name}() that is called like this")
}
