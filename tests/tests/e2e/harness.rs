//! The test harness: a server with a new database per test, nodes enrolled through `fleetctl`, and simulated sites
//! with their own addresses. Read [`World`] first.

mod command;
mod database;
mod history;
mod http;
mod node;
mod operator;
mod poll;
mod process;
mod server;
mod sites;
mod truth;
mod world;

pub(crate) use command::{Done, binary, run};
pub(crate) use database::{Kind, skip};
pub(crate) use fleet_wire::{Code, fleet::ScanState};
pub(crate) use history::{History, Watch, devices, found_addresses};
pub(crate) use http::EventSource;
pub(crate) use node::{CONNECTED, Node, confirm, new_code};
pub(crate) use operator::{Operator, list, range, target};
pub(crate) use poll::{eventually, within};
pub(crate) use sites::{PORTS, Range, ports};
pub(crate) use truth::{Expected, Reported, adds_up};
pub(crate) use world::{World, on};

/// Creates two tests, one per database engine, from every `async fn(World)` that it names.
macro_rules! on_both_databases {
    ($($test:ident)*) => {
        mod on_sqlite {
            $(#[test]
            fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                $crate::harness::on($crate::harness::Kind::Sqlite, name, super::$test);
            })*
        }

        mod on_postgres {
            $(#[test]
            fn $test() {
                let name = concat!(module_path!(), "::", stringify!($test));
                $crate::harness::on($crate::harness::Kind::Postgres, name, super::$test);
            })*
        }
    };
}
