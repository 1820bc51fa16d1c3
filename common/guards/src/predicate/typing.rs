//! The checker: walks an expression, knows every name in it, and types it as far as the text tells.
//!
//! `cel` compiles unknown names and mixed types without a word and fails when it evaluates; a plan must fail when it
//! is registered. The same walk bounds what an evaluation can cost.

use cel::common::ast::{
    CallExpr, ComprehensionExpr, Expr, IdedExpr, ListExpr, SelectExpr, SourceInfo, operators,
};
use cel::{Context, Value};

use super::fault::{Place, PredicateFault};
use super::kind::Kind;
use super::reads::Reads;
use super::{ENVIRONMENT, functions, names, operators as rules};

/// The most parts of an expression, macros expanded.
const NODES: usize = 128;
/// The deepest nesting of parts: in a debug build each level takes some 45 KB of stack when it is evaluated.
const DEPTH: usize = 20;
/// The most loops inside each other: macros, and `in` over a list that is not written out.
const LOOPS: usize = 2;

/// Checks an expression; gives what it reads.
pub(super) fn check(expr: &IdedExpr, source: &SourceInfo) -> Result<Reads, PredicateFault> {
    let mut checker =
        Checker { source, scope: vec![], loops: 0, depth: 0, nodes: 0, reads: Reads::default() };
    let kind = checker.kind(expr)?;
    if !kind.may_be(Kind::Bool) {
        return Err(PredicateFault::NotBoolean { found: kind.to_string() });
    }
    Ok(checker.reads)
}

struct Checker<'a> {
    source: &'a SourceInfo,
    /// The variables that macros bind, innermost last.
    scope: Vec<(&'a str, Kind)>,
    loops: usize,
    depth: usize,
    nodes: usize,
    reads: Reads,
}

impl<'a> Checker<'a> {
    fn kind(&mut self, expr: &'a IdedExpr) -> Result<Kind, PredicateFault> {
        self.nodes += 1;
        self.depth += 1;
        if self.nodes > NODES {
            return Err(PredicateFault::TooComplex { what: format!("it has more than {NODES} parts") });
        }
        if self.depth > DEPTH {
            return Err(PredicateFault::TooComplex { what: format!("it nests more than {DEPTH} deep") });
        }
        let kind = match &expr.expr {
            Expr::Literal(literal) => Kind::of(literal),
            Expr::Ident(name) => self.name(expr, name)?,
            Expr::Select(select) => self.select(expr, select)?,
            Expr::Call(call) => self.call(expr, call)?,
            Expr::List(list) => self.list(list)?,
            Expr::Comprehension(each) => self.each(expr, each)?,
            // A map written out iterates in random order: the decision could not be made again.
            Expr::Map(_) | Expr::Struct(_) => {
                return Err(self.misuse(expr, "a predicate cannot write out a map or a message".to_owned()));
            }
            Expr::Unspecified => return Err(self.misuse(expr, "an empty expression".to_owned())),
        };
        self.depth -= 1;
        Ok(kind)
    }

    fn name(&mut self, expr: &IdedExpr, name: &str) -> Result<Kind, PredicateFault> {
        if let Some(kind) = self.bound(name) {
            return Ok(kind);
        }
        if let Some(fields) = names::record(name) {
            return Err(
                self.misuse(expr, format!("'{name}' is no value of its own: name one of {}", listed(fields)))
            );
        }
        let kind = names::value(name).ok_or_else(|| self.unknown(expr, name, names::ALL.to_owned()))?;
        self.reads.name(name);
        Ok(kind)
    }

    fn select(&mut self, expr: &'a IdedExpr, select: &'a SelectExpr) -> Result<Kind, PredicateFault> {
        if let Expr::Ident(name) = &select.operand.expr
            && self.bound(name).is_none()
            && let Some(fields) = names::record(name)
        {
            return self.field(expr, name, fields, select);
        }
        if matches!(&select.operand.expr, Expr::Ident(name) if name == "results" && self.bound(name).is_none())
        {
            self.reads.result(&select.field);
            return Ok(if select.test { Kind::Bool } else { Kind::Dyn });
        }
        let operand = self.kind(&select.operand)?;
        match operand {
            Kind::Map(_) | Kind::Dyn if select.test => Ok(Kind::Bool),
            Kind::Map(value) => Ok(*value),
            Kind::Dyn => Ok(Kind::Dyn),
            _ => Err(self.misuse(expr, format!("{operand} has no field '{}'", select.field))),
        }
    }

    fn field(
        &mut self,
        expr: &IdedExpr,
        record: &str,
        fields: &'static [(&'static str, Kind)],
        select: &SelectExpr,
    ) -> Result<Kind, PredicateFault> {
        let Some((_, kind)) = fields.iter().find(|(field, _)| *field == select.field) else {
            let name = format!("{record}.{}", select.field);
            return Err(self.unknown(expr, &name, format!("{record} has {}", listed(fields))));
        };
        if select.test {
            return Err(
                self.misuse(expr, format!("{record}.{} is always there: leave out has()", select.field))
            );
        }
        self.reads.name(record);
        Ok(*kind)
    }

    fn call(&mut self, expr: &'a IdedExpr, call: &'a CallExpr) -> Result<Kind, PredicateFault> {
        if let Some(key) = result_key(call)
            && self.bound("results").is_none()
        {
            self.reads.result(key);
            return Ok(Kind::Dyn);
        }
        let target = call.target.as_deref().map(|target| self.kind(target)).transpose()?;
        let args = call.args.iter().map(|arg| self.kind(arg)).collect::<Result<Vec<_>, _>>()?;
        if call.func_name == operators::IN && is_scan(call, &args) {
            within_loops(self.loops + 1)?;
        }
        let operator = if target.is_none() { rules::result(&call.func_name, &args) } else { None };
        let kind = operator
            .unwrap_or_else(|| functions::result(&call.func_name, target, &args))
            .map_err(|message| self.misuse(expr, message))?;
        self.constant(expr, call)?;
        Ok(kind)
    }

    /// A moment or a span written out is read now, not at the first step.
    fn constant(&self, expr: &IdedExpr, call: &CallExpr) -> Result<(), PredicateFault> {
        if !matches!(call.func_name.as_str(), "timestamp" | "duration")
            || !call.args.iter().all(|arg| matches!(arg.expr, Expr::Literal(_)))
        {
            return Ok(());
        }
        match Value::resolve_val(expr, &Context::with_env(ENVIRONMENT.clone())) {
            Ok(_) => Ok(()),
            Err(error) => Err(self.misuse(expr, format!("not a {}: {error}", call.func_name))),
        }
    }

    fn list(&mut self, list: &'a ListExpr) -> Result<Kind, PredicateFault> {
        let kinds = list.elements.iter().map(|element| self.kind(element)).collect::<Result<Vec<_>, _>>()?;
        Ok(kinds.into_iter().reduce(Kind::join).unwrap_or(Kind::Dyn).listed())
    }

    /// A macro: `all`, `exists`, `exists_one`, `map`, `filter`.
    fn each(&mut self, expr: &'a IdedExpr, each: &'a ComprehensionExpr) -> Result<Kind, PredicateFault> {
        let variable = each.iter_var.as_str();
        if names::value(variable).is_some() || names::record(variable).is_some() {
            return Err(
                self.misuse(expr, format!("'{variable}' is an input: give the variable another name"))
            );
        }
        let range = self.kind(&each.iter_range)?;
        let element = range.element().ok_or_else(|| self.misuse(expr, format!("{range} has no elements")))?;
        if self.loops > 0 && !is_path(&each.iter_range) {
            let message = "a loop inside a loop runs over an input, not over a list written out or computed";
            return Err(self.misuse(expr, message.to_owned()));
        }
        let start = self.kind(&each.accu_init)?;
        within_loops(self.loops + 1)?;
        self.loops += 1;
        let outer = self.scope.len();
        self.scope.extend([(each.accu_var.as_str(), start), (variable, element)]);
        self.kind(&each.loop_cond)?;
        self.kind(&each.loop_step)?;
        let result = self.kind(&each.result)?;
        self.scope.truncate(outer);
        self.loops -= 1;
        // What map() collects is known only when evaluated.
        Ok(if matches!(result, Kind::List(_)) { Kind::Dyn.listed() } else { result })
    }

    fn bound(&self, name: &str) -> Option<Kind> {
        self.scope.iter().rev().find(|(bound, _)| *bound == name).map(|(_, kind)| *kind)
    }

    fn at(&self, expr: &IdedExpr) -> Place {
        let start = self.source.offset_for(expr.id).map_or(0, |(start, _)| start);
        Place::of(&self.source.source, usize::try_from(start).unwrap_or(usize::MAX))
    }

    fn misuse(&self, expr: &IdedExpr, message: String) -> PredicateFault {
        PredicateFault::Misuse { at: self.at(expr), message }
    }

    fn unknown(&self, expr: &IdedExpr, name: &str, known: String) -> PredicateFault {
        PredicateFault::Unknown { at: self.at(expr), name: name.to_owned(), known }
    }
}

fn within_loops(loops: usize) -> Result<(), PredicateFault> {
    if loops <= LOOPS {
        return Ok(());
    }
    Err(PredicateFault::TooComplex { what: format!("more than {LOOPS} loops stand inside each other") })
}

fn listed(fields: &[(&str, Kind)]) -> String {
    fields.iter().map(|(field, _)| *field).collect::<Vec<_>>().join(", ")
}

/// The key in `results["key"]`.
fn result_key(call: &CallExpr) -> Option<&str> {
    use cel::common::ast::LiteralValue::String;
    match (call.func_name.as_str(), call.args.as_slice()) {
        (
            operators::INDEX,
            [IdedExpr { expr: Expr::Ident(name), .. }, IdedExpr { expr: Expr::Literal(String(key)), .. }],
        ) if name == "results" => Some(key.inner()),
        _ => None,
    }
}

/// Whether `in` looks at every element of a list whose length the text does not tell.
fn is_scan(call: &CallExpr, kinds: &[Kind]) -> bool {
    let written_out = matches!(call.args.last().map(|arg| &arg.expr), Some(Expr::List(_)));
    let keyed = matches!(kinds.last(), Some(Kind::Map(_)));
    !written_out && !keyed
}

/// Whether an expression only names a value: a name, a field, an element.
fn is_path(expr: &IdedExpr) -> bool {
    match &expr.expr {
        Expr::Ident(_) => true,
        Expr::Select(select) => is_path(&select.operand),
        Expr::Call(call) => call.func_name == operators::INDEX && call.args.first().is_some_and(is_path),
        _ => false,
    }
}
