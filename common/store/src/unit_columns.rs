//! Units as the columns of a statement over arrays.

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
