//! The schema, in steps that run once and in order, each in a transaction on both databases. Steps
//! that were released never change; entities follow the newest one.

mod m0001_first_schema;
mod m0002_identity;
mod m0003_pairing;
mod m0004_direct;
mod m0005_sign_in;
mod m0006_audit_chain;
#[cfg(test)]
mod upgrade;

use sea_orm_migration::prelude::*;

/// All steps in order.
pub(crate) struct Migrator;

#[async_trait::async_trait]
impl MigratorTrait for Migrator {
    fn migrations() -> Vec<Box<dyn MigrationTrait>> {
        vec![
            Box::new(m0001_first_schema::FirstSchema),
            Box::new(m0002_identity::Identity),
            Box::new(m0003_pairing::Pairing),
            Box::new(m0004_direct::Direct),
            Box::new(m0005_sign_in::SignIn),
            Box::new(m0006_audit_chain::AuditChain),
        ]
    }
}
