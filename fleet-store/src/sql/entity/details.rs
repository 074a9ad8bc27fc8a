//! The device page: changes of devices, labels and notes.

entity! {
    device_event "device_event" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub device_id: i64,
        pub kind: AsText<EventKind>,
        pub former: String,
        pub became: String,
        /// The node whose report or result shows the change.
        pub node_id: Option<i64>,
        pub at: Micros,
    }
}

entity! {
    device_label "device_label" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub label: String,
        pub org_id: i64,
    }
}

entity! {
    device_note "device_note" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub device_id: i64,
        pub org_id: i64,
        pub text: String,
        pub changed_by: i64,
        pub changed_at: Micros,
    }
}
