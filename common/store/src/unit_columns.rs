//! Units as the columns of a statement over arrays.
//!
//! Such a statement finds its rows by their primary key, whatever the statistics say: in a queue they are out of date
//! just when it fills, and a partial index that looked empty then is read whole (16 ms for 2 rows of 20,000, measured).
//! So where a row's state is a condition besides its key, it is written `s.state || '' = 'ready'`, which no partial
//! index answers; and connections of a store plan no hash or merge join ([`crate::Store::new`]).

use dat_plan::UnitKey;

/// Plan id, version, kind and index of each unit, as `UNNEST` takes them.
pub(crate) type UnitColumns = (Vec<uuid::Uuid>, Vec<i32>, Vec<String>, Vec<i32>);

/// Takes units apart.
pub(crate) fn unit_columns<'a>(units: impl Iterator<Item = &'a UnitKey>) -> UnitColumns {
    let mut columns = UnitColumns::default();
    for unit in units {
        columns.0.push(unit.plan.plan_id);
        columns.1.push(unit.plan.plan_version);
        columns.2.push(unit.kind.as_str().to_owned());
        columns.3.push(unit.index);
    }
    columns
}
