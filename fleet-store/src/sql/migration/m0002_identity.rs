//! Identity that can be taken back: why two names are one device, what operators told apart, which node
//! takes whose place, and what was refused because another has it.

use sea_orm_migration::prelude::*;

use super::m0001_first_schema::{
    FirstSchema, Keyed, id, index, integer, optional, table, text, unique,
};

pub(super) struct Identity;

impl MigrationName for Identity {
    fn name(&self) -> &str {
        "m0002_identity"
    }
}

#[async_trait::async_trait]
impl MigrationTrait for Identity {
    fn use_transaction(&self) -> Option<bool> {
        FirstSchema.use_transaction()
    }

    async fn up(&self, manager: &SchemaManager) -> Result<(), DbErr> {
        for (table, column) in [
            ("invitation", optional(integer("replaces_node_id"))),
            ("node", optional(integer("replaces_node_id"))),
            ("device", optional(text("kept_apart"))),
        ] {
            let add = Table::alter().table(table).add_column(column).to_owned();
            manager.alter_table(add).await?;
        }
        manager.create_table(identity_change()).await?;
        manager.create_table(refused_device()).await?;
        for index in [
            unique(
                "node_live_replacement",
                "node",
                ["org_id", "replaces_node_id"],
                Some("deleted_at IS NULL AND replaces_node_id IS NOT NULL"),
            ),
            index("identity_change_device", "identity_change", ["device_id"]),
            index(
                "identity_change_merged",
                "identity_change",
                ["merged_device_id"],
            ),
            index(
                "identity_change_former",
                "identity_change",
                ["org_id", "former"],
            ),
            unique(
                "refused_device_place",
                "refused_device",
                ["node_id", "ip", "port"],
                None,
            ),
            index("refused_device_org", "refused_device", ["org_id", "id"]),
            index(
                "refused_device_seen",
                "refused_device",
                ["node_id", "last_seen"],
            ),
        ] {
            manager.create_index(index).await?;
        }
        // What was renamed before reasons were kept can be taken back too.
        let earlier = "INSERT INTO identity_change (org_id, device_id, reason, former, became, former_node_id, driver, model, manufacturer, evidence, last_seen, at) \
             SELECT a.org_id, a.device_id, 'earlier', a.identifier, d.identifier, d.node_id, d.driver, d.model, d.manufacturer, d.evidence, a.since, a.since \
             FROM device_alias a JOIN device d ON d.id = a.device_id";
        manager.get_connection().execute_unprepared(earlier).await?;
        Ok(())
    }
}

/// One row a change; what the record was before it is kept beside, for taking it back.
fn identity_change() -> TableCreateStatement {
    table(
        "identity_change",
        [
            id(),
            integer("org_id"),
            integer("device_id"),
            optional(integer("merged_device_id")),
            text("reason"),
            text("former"),
            text("became"),
            optional(integer("node_id")),
            optional(integer("former_node_id")),
            text("driver"),
            text("model"),
            text("manufacturer"),
            text("evidence"),
            integer("last_seen"),
            optional(integer("binding_since")),
            integer("at"),
            optional(integer("undone_at")),
        ],
    )
    .refers(["org_id", "device_id"], "device", ["org_id", "id"])
    .refers(["org_id", "merged_device_id"], "device", ["org_id", "id"])
    .refers(["org_id", "node_id"], "node", ["org_id", "id"])
    .refers(["org_id", "former_node_id"], "node", ["org_id", "id"])
}

/// One row a place of a reporter; bounded for each.
fn refused_device() -> TableCreateStatement {
    table(
        "refused_device",
        [
            id(),
            integer("org_id"),
            integer("node_id"),
            text("ip"),
            integer("port"),
            text("identifier"),
            text("reason"),
            integer("device_id"),
            integer("count"),
            integer("first_seen"),
            integer("last_seen"),
        ],
    )
    .refers(["org_id", "node_id"], "node", ["org_id", "id"])
    .refers(["org_id", "device_id"], "device", ["org_id", "id"])
}

#[cfg(test)]
mod tests {
    use fleet_core::{DeviceId, OrgId};

    use super::super::upgrade::{answer, upgraded};
    use crate::{DeviceName, Inventory};

    #[tokio::test]
    async fn names_from_before_reasons_were_kept_are_shown_and_can_be_taken_back() {
        upgraded(1, &[], |store| async move {
            let device = store
                .device(OrgId(1), DeviceName::Id(DeviceId(1)))
                .await
                .expect("read")
                .expect("there");
            let [alias] = &device.aliases[..] else {
                panic!("one former name: {device:?}")
            };
            assert_eq!(
                (alias.identifier.to_string().as_str(), alias.reason.as_str()),
                ("auto:00ff00ff00ff00ff", "earlier")
            );
            for table in ["node", "invitation"] {
                assert_eq!(
                    answer(
                        &store,
                        &format!("SELECT CAST(replaces_node_id AS text) FROM {table}")
                    )
                    .await,
                    None
                );
            }
            let bound = answer(&store, "SELECT CAST(device_id AS text) FROM binding").await;
            assert_eq!(bound.as_deref(), Some("1"));
        })
        .await;
    }
}
