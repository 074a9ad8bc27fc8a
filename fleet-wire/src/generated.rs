//! What build.rs generates, in modules that mirror the packages. Nothing is written by hand here.

#![expect(
    missing_docs,
    clippy::allow_attributes,
    reason = "generated from the definitions, which carry the comments"
)]

/// Includes the messages, services and JSON of one package.
macro_rules! package {
    ($name:literal) => {
        include!(concat!(env!("OUT_DIR"), "/", $name, ".rs"));
        include!(concat!(env!("OUT_DIR"), "/", $name, ".serde.rs"));
    };
}

pub(crate) mod common {
    pub mod v1 {
        package!("common.v1");
    }
}
pub(crate) mod fleet {
    pub mod v1 {
        package!("fleet.v1");
    }
}
pub(crate) mod fleetmanagement {
    pub mod v1 {
        package!("fleetmanagement.v1");
    }
}
pub(crate) mod fleetnodeadmin {
    pub mod v1 {
        package!("fleetnodeadmin.v1");
    }
}
pub(crate) mod fleetnodegateway {
    pub mod v1 {
        package!("fleetnodegateway.v1");
    }
}
pub(crate) mod google {
    pub mod rpc {
        package!("google.rpc");
    }
}
pub(crate) mod grpc {
    pub(crate) mod health {
        pub mod v1 {
            package!("grpc.health.v1");
        }
    }
}
pub(crate) mod minercommand {
    pub mod v1 {
        package!("minercommand.v1");
    }
}
pub(crate) mod pairing {
    pub mod v1 {
        package!("pairing.v1");
    }
}
pub(crate) mod go_plugin {
    pub mod plugin {
        package!("plugin");
    }
}
pub(crate) mod sdk {
    pub mod v1 {
        package!("sdk.v1");
    }
}
