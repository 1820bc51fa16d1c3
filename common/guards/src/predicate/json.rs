//! JSON as CEL sees it: borrowed, in a fixed order, and metered.
//!
//! `cel`'s own map copies every value in and iterates in random order. This one borrows the inputs, makes a value of
//! what is read only, and iterates by key, so that the same inputs give the same decision.

use std::collections::BTreeMap;
use std::sync::OnceLock;

use cel::ExecutionError;
use cel::common::traits::{self, Container, Indexer, Iterable, Sizer};
use cel::common::types::{
    CelBool, CelDouble, CelInt, CelList, CelNull, CelString, Kind as CelKind, MAP_TYPE, Type,
};
use cel::common::value::{CowVal, Val};
use serde_json::{Map, Number, Value};

use super::meter::Meter;

type Boxed<'v> = Box<dyn Val + 'v>;

/// A JSON value as a CEL value.
///
/// A whole number is an int however it is spelled (`2`, `2.0`, `2e0` have one canonical form, hence one plan hash, so
/// they must decide alike); any other number is a double.
pub(super) fn value<'v>(json: &'v Value, meter: &'v Meter) -> Result<Boxed<'v>, ExecutionError> {
    Ok(match json {
        Value::String(text) => {
            meter.text(text.len())?;
            Box::new(CelString::from(text.as_str()))
        }
        Value::Array(elements) => {
            meter.read(1)?;
            let elements =
                elements.iter().map(|element| value(element, meter)).collect::<Result<Vec<_>, _>>()?;
            Box::new(CelList::from(elements))
        }
        Value::Object(map) => {
            meter.read(1)?;
            Box::new(Object::new(Entries::Json(map), meter))
        }
        Value::Null => Box::new(CelNull),
        Value::Bool(truth) => {
            meter.read(1)?;
            Box::new(CelBool::from(*truth))
        }
        Value::Number(n) => {
            meter.read(1)?;
            number(n)?
        }
    })
}

/// The greatest whole number up to which every double is exact: 2^53.
const EXACT: f64 = 9_007_199_254_740_992.0;

fn number<'v>(number: &Number) -> Result<Boxed<'v>, ExecutionError> {
    if let Some(whole) = number.as_i64() {
        return Ok(Box::new(CelInt::from(whole)));
    }
    let double = number
        .as_f64()
        .ok_or_else(|| ExecutionError::function_error("read", format!("{number} is not a 64-bit number")))?;
    if double.fract() == 0.0 && double.abs() <= EXACT {
        #[expect(clippy::cast_possible_truncation, reason = "whole and at most 2^53: exact")]
        return Ok(Box::new(CelInt::from(double as i64)));
    }
    Ok(Box::new(CelDouble::from(double)))
}

/// What an object is made of.
#[derive(Debug, Clone, Copy)]
pub(super) enum Entries<'v> {
    /// A JSON object.
    Json(&'v Map<String, Value>),
    /// Labels.
    Labels(&'v BTreeMap<String, String>),
}

impl<'v> Entries<'v> {
    fn len(self) -> usize {
        match self {
            Self::Json(map) => map.len(),
            Self::Labels(map) => map.len(),
        }
    }

    fn has(self, key: &str) -> bool {
        match self {
            Self::Json(map) => map.contains_key(key),
            Self::Labels(map) => map.contains_key(key),
        }
    }

    fn get(self, key: &str, meter: &'v Meter) -> Option<Result<Boxed<'v>, ExecutionError>> {
        match self {
            Self::Json(map) => map.get(key).map(|json| value(json, meter)),
            Self::Labels(map) => map.get(key).map(|text| {
                meter.text(text.len())?;
                let text: Boxed<'v> = Box::new(CelString::from(text.as_str()));
                Ok(text)
            }),
        }
    }

    /// The keys in order, whichever map `serde_json` was built with.
    fn keys(self) -> Vec<CelString<'v>> {
        let mut keys: Vec<&'v str> = match self {
            Self::Json(map) => map.keys().map(String::as_str).collect(),
            Self::Labels(map) => map.keys().map(String::as_str).collect(),
        };
        keys.sort_unstable();
        keys.into_iter().map(CelString::from).collect()
    }
}

/// A map from texts to values that are made when they are read.
#[derive(Debug)]
pub(super) struct Object<'v> {
    entries: Entries<'v>,
    meter: &'v Meter,
    /// Filled at the first iteration.
    keys: OnceLock<Vec<CelString<'v>>>,
}

impl<'v> Object<'v> {
    pub(super) fn new(entries: Entries<'v>, meter: &'v Meter) -> Self {
        Self { entries, meter, keys: OnceLock::new() }
    }

    fn find(&self, key: &dyn Val) -> Result<Boxed<'v>, ExecutionError> {
        let key = text(key)?;
        self.entries.get(key, self.meter).unwrap_or_else(|| Err(ExecutionError::no_such_key(key)))
    }
}

/// Keys are texts; anything else is looked for by mistake.
fn text(key: &dyn Val) -> Result<&str, ExecutionError> {
    key.downcast_ref::<CelString>().map(CelString::inner).ok_or_else(|| ExecutionError::UnexpectedType {
        got: key.get_type().name().to_owned(),
        want: "string".to_owned(),
    })
}

impl Val for Object<'_> {
    fn get_type(&self) -> &Type {
        <Self as Val>::cel_type()
    }

    fn cel_type() -> &'static Type {
        &MAP_TYPE
    }

    fn as_container(&self) -> Option<&dyn Container> {
        Some(self)
    }

    fn as_indexer<'b, 'w>(&'b self) -> Option<&'b (dyn Indexer + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_iterable<'b, 'w>(&'b self) -> Option<&'b (dyn Iterable + 'w)>
    where
        Self: 'w,
    {
        Some(self)
    }

    fn as_sizer(&self) -> Option<&dyn Sizer> {
        Some(self)
    }

    /// Equal to a map of the same keys with equal values. Every value looked at counts.
    fn equals(&self, other: &dyn Val) -> bool {
        let (Some(others), Some(size)) = (other.as_indexer(), other.as_sizer()) else { return false };
        if other.get_type().kind() != CelKind::Map || size.size() != self.size() {
            return false;
        }
        self.entries.keys().iter().all(|key| match (self.find(key), others.get(key)) {
            (Ok(mine), Ok(theirs)) => mine.equals(theirs.as_ref()),
            _ => false,
        })
    }

    fn clone_as_boxed<'w>(&self) -> Box<dyn Val + 'w>
    where
        Self: 'w,
    {
        Box::new(Self::new(self.entries, self.meter))
    }
}

impl Container for Object<'_> {
    fn contains(&self, key: &dyn Val) -> Result<bool, ExecutionError> {
        Ok(self.entries.has(text(key)?))
    }
}

impl Indexer for Object<'_> {
    fn get<'b, 'w>(&'b self, key: &dyn Val) -> Result<CowVal<'b, 'w>, ExecutionError>
    where
        Self: 'w,
    {
        Ok(CowVal::Owned(self.find(key)?))
    }

    fn steal<'w>(self: Box<Self>, key: &dyn Val) -> Result<Box<dyn Val + 'w>, ExecutionError>
    where
        Self: 'w,
    {
        self.find(key).map(|value| value as Box<dyn Val + 'w>)
    }
}

impl Sizer for Object<'_> {
    fn size(&self) -> CelInt {
        CelInt::from(i64::try_from(self.entries.len()).unwrap_or(i64::MAX))
    }
}

impl Iterable for Object<'_> {
    /// Over the keys. Once the meter is exhausted there are none, and the evaluation as a whole is refused.
    fn iter<'b, 'w>(&'b self) -> Box<dyn traits::Iterator<'b, 'w> + 'b>
    where
        Self: 'w,
    {
        let readable = self.meter.read(self.entries.len()).is_ok();
        let keys: &'b [CelString<'_>] =
            if readable { self.keys.get_or_init(|| self.entries.keys()) } else { &[] };
        Box::new(Keys(keys.iter()))
    }
}

struct Keys<'b, 'v>(std::slice::Iter<'b, CelString<'v>>);

impl<'b, 'v: 'w, 'w> traits::Iterator<'b, 'w> for Keys<'b, 'v> {
    fn next(&mut self) -> Option<&'b (dyn Val + 'w)> {
        self.0.next().map(|key| key as &'b (dyn Val + 'w))
    }
}
