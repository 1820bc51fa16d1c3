//! Roles: every table has been thought of. What each may do is tried by the end-to-end tests, as these roles.

use crate::database::with;

#[tokio::test(flavor = "multi_thread")]
async fn every_table_of_the_schema_is_one_that_roles_were_thought_of_for() {
    with(async |db| {
        assert_eq!(db.store.tables_without_grants().await.unwrap(), Vec::<String>::new());
        sqlx::query("CREATE TABLE forgotten (n integer)").execute(&db.sql).await.unwrap();
        assert_eq!(db.store.tables_without_grants().await.unwrap(), ["forgotten"]);
    })
    .await;
}
