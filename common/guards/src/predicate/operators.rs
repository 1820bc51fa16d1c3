//! Operators: which kinds each takes and what it gives, as `cel` 0.15 implements them.

use cel::common::ast::operators as op;

use super::kind::Kind;

/// The kind an operator gives; `None` where the name is no operator, the reason where it does not apply.
pub(super) fn result(name: &str, args: &[Kind]) -> Option<Result<Kind, String>> {
    let verdict = match (name, args) {
        (op::CONDITIONAL, [condition, yes, no]) => condition
            .may_be(Kind::Bool)
            .then(|| yes.join(*no))
            .ok_or("a condition is true or false".to_owned()),
        (op::LOGICAL_AND | op::LOGICAL_OR, [left, right]) => {
            applies(name, args, left.may_be(Kind::Bool) && right.may_be(Kind::Bool), Kind::Bool)
        }
        (op::LOGICAL_NOT | op::NOT_STRICTLY_FALSE, [operand]) => {
            applies(name, args, operand.may_be(Kind::Bool), Kind::Bool)
        }
        (op::EQUALS | op::NOT_EQUALS, [left, right]) => {
            applies(name, args, equatable(*left, *right), Kind::Bool)
        }
        (op::LESS | op::LESS_EQUALS | op::GREATER | op::GREATER_EQUALS, [left, right]) => {
            applies(name, args, ordered(*left, *right), Kind::Bool)
        }
        (op::IN, [element, container]) => contained(name, *element, *container),
        (op::INDEX, [container, index]) => indexed(name, *container, *index),
        (op::NEGATE, [operand]) => {
            applies(name, args, matches!(operand, Kind::Int | Kind::Double | Kind::Dyn), *operand)
        }
        (op::ADD | op::SUBSTRACT | op::MULTIPLY | op::DIVIDE | op::MODULO, [left, right]) => {
            arithmetic(name, *left, *right).ok_or_else(|| refusal(name, args))
        }
        _ => return None,
    };
    Some(verdict)
}

fn applies(name: &str, args: &[Kind], fits: bool, gives: Kind) -> Result<Kind, String> {
    if fits { Ok(gives) } else { Err(refusal(name, args)) }
}

fn refusal(name: &str, args: &[Kind]) -> String {
    let kinds: Vec<String> = args.iter().map(Kind::to_string).collect();
    format!("'{}' does not apply to {}", name.trim_start_matches('@').replace('_', ""), kinds.join(" and "))
}

/// Values of different kinds are never equal, so comparing them is a mistake; numbers compare by value.
fn equatable(left: Kind, right: Kind) -> bool {
    left.may_be(right) || (left.is_number() && right.is_number())
}

fn ordered(left: Kind, right: Kind) -> bool {
    let orderable = |kind| !matches!(kind, Kind::Null | Kind::List(_) | Kind::Map(_));
    orderable(left) && orderable(right) && equatable(left, right)
}

fn contained(name: &str, element: Kind, container: Kind) -> Result<Kind, String> {
    let fits = container.element().is_some_and(|held| equatable(element, held));
    applies(name, &[element, container], fits, Kind::Bool)
}

fn indexed(name: &str, container: Kind, index: Kind) -> Result<Kind, String> {
    match container {
        Kind::Dyn => Ok(Kind::Dyn),
        Kind::List(element) if index.is_number() || index == Kind::Dyn => Ok(*element),
        Kind::Map(value) if index.may_be(Kind::String) => Ok(*value),
        _ => Err(refusal(name, &[container, index])),
    }
}

/// Arithmetic takes two of one kind, except for moments and spans of time; one known side tells the other.
fn arithmetic(name: &str, left: Kind, right: Kind) -> Option<Kind> {
    use Kind::{Bytes, Double, Duration, Dyn, Int, List, String, Timestamp, Uint};
    let adds = name == op::ADD;
    let spans = adds || name == op::SUBSTRACT;
    match (left, right) {
        (Dyn, Dyn) => Some(Dyn),
        (Timestamp | Duration, Dyn) | (Dyn, Timestamp | Duration) if spans => Some(Dyn),
        (Int | Uint, Int | Uint | Dyn) | (Dyn, Int | Uint) if left.may_be(right) => Some(known(left, right)),
        (Double, Double | Dyn) | (Dyn, Double) if name != op::MODULO => Some(Double),
        (String, String | Dyn) | (Dyn, String) if adds => Some(String),
        (Bytes, Bytes | Dyn) | (Dyn, Bytes) if adds => Some(Bytes),
        (List(one), List(other)) if adds => Some(one.join(*other).listed()),
        (List(_), Dyn) | (Dyn, List(_)) if adds => Some(Dyn.listed()),
        (Timestamp, Duration) if spans => Some(Timestamp),
        (Duration, Timestamp) if adds => Some(Timestamp),
        (Timestamp, Timestamp) if spans && !adds => Some(Duration),
        (Duration, Duration) if spans => Some(Duration),
        _ => None,
    }
}

fn known(left: Kind, right: Kind) -> Kind {
    if left == Kind::Dyn { right } else { left }
}
