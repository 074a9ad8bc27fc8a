//! What the tests stand on: a server of their own on a database of their own, nodes enrolled through the
//! command line, simulated sites on addresses of their own. Start with [`World`].

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
pub(crate) use database::Kind;
pub(crate) use fleet_wire::{Code, fleet::ScanState};
pub(crate) use history::{History, Watch, devices, found_addresses};
pub(crate) use http::EventSource;
pub(crate) use node::{CONNECTED, Node, confirm, new_code};
pub(crate) use operator::{Operator, list, range, target};
pub(crate) use poll::{eventually, within};
pub(crate) use sites::{PORTS, Range, ports};
pub(crate) use truth::{Expected, Told, adds_up};
pub(crate) use world::{World, on};

/// Makes two tests of every `async fn(World)` that it names, one on each database.
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
