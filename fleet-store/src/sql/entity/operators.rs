//! Tenants, operators, their credentials, and the audit trail.

entity! {
    org "org" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub name: String,
        pub created_at: Micros,
    }
}

entity! {
    operator "operator" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub email: String,
        pub role: AsText<Role>,
        pub created_at: Micros,
        pub removed_at: Option<Micros>,
    }
}

entity! {
    operator_key "operator_key" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub operator_id: i64,
        pub hash: Hash,
        pub created_at: Micros,
        pub revoked_at: Option<Micros>,
        pub name: String,
        pub last_used_at: Option<Micros>,
        pub expires_at: Option<Micros>,
        pub made_by: Option<i64>,
    }
}

entity! {
    operator_password "operator_password" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub operator_id: i64,
        pub hash: String,
        pub changed_at: Micros,
        pub one_time_until: Option<Micros>,
    }
}

entity! {
    operator_source "operator_source" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub operator_id: i64,
        #[sea_orm(primary_key, auto_increment = false)]
        pub source: AsText<IpAddr>,
        pub seen_at: Micros,
    }
}

entity! {
    browser_session "browser_session" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub hash: Hash,
        pub operator_id: i64,
        pub key_id: Option<i64>,
        pub created_at: Micros,
        pub expires_at: Micros,
        pub from_address: Option<AsText<IpAddr>>,
        pub agent: String,
        pub issuer: Option<String>,
    }
}

entity! {
    operator_link "operator_link" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: i64,
        pub operator_id: i64,
        pub issuer: String,
        pub subject: String,
        pub linked_at: Micros,
    }
}

entity! {
    used_attempt "used_attempt" {
        #[sea_orm(primary_key, auto_increment = false)]
        pub hash: Hash,
        pub expires_at: Micros,
    }
}

entity! {
    audit "audit" {
        #[sea_orm(primary_key)]
        pub id: i64,
        pub org_id: Option<i64>,
        pub principal: String,
        pub principal_id: Option<i64>,
        pub from_address: Option<AsText<IpAddr>>,
        pub action: String,
        pub subject: String,
        pub refusal: Option<String>,
        pub count: i64,
        pub at: Micros,
        pub fold: Option<String>,
        /// The newest link of this record, its count, and its time. All are unset until the record is sealed.
        pub sealed_seq: Option<i64>,
        pub sealed_count: Option<i64>,
        pub sealed_at: Option<Micros>,
    }
}
