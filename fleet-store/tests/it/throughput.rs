//! Measures how fast reports are stored. Prints the result and asserts nothing.

use std::time::Instant;

use fleet_core::outcome::AckCode;
use fleet_store::Reports as _;

use crate::site::{Row, Site, mac, with_mac};

const REPORTS: usize = 200;
const DEVICES: usize = 64;

mod on_sqlite {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "measures; run it by name with --release and --nocapture"]
    async fn rows_a_second() {
        crate::site::on_sqlite(|site| super::rows_a_second(site, "SQLite")).await;
    }
}

mod on_postgres {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "measures; run it by name with --release and --nocapture"]
    async fn rows_a_second() {
        crate::site::on_postgres(|site| super::rows_a_second(site, "PostgreSQL")).await;
    }
}

#[expect(clippy::print_stdout, reason = "the figure is what it is for")]
async fn rows_a_second(site: Site, engine: &str) {
    let node = site.node("north").await;
    for round in ["new devices", "known devices"] {
        let mut took = std::time::Duration::ZERO;
        let mut reports = 0;
        'all: for block in 0.. {
            let command = site
                .running(node, &format!("10.{block}.0.0/22"))
                .await
                .command;
            for part in 0..15 {
                let row = |n: usize| -> Row {
                    let host = part * DEVICES + n + 1;
                    with_mac(
                        &format!("10.{block}.{}.{}", host >> 8, host & 255),
                        &mac(block * 1_024 + host),
                    )
                };
                let report = site.report(node, command, (0..DEVICES).map(row).collect());
                let start = Instant::now();
                let answer = site.store.record_report(report).await.expect("recorded");
                took += start.elapsed();
                assert_eq!(answer.accepted as usize, DEVICES);
                reports += 1;
                if reports == REPORTS {
                    site.acked(node, command, AckCode::Ok).await;
                    break 'all;
                }
            }
            site.acked(node, command, AckCode::Ok).await;
        }
        let rows = (REPORTS * DEVICES) as f64 / took.as_secs_f64();
        println!(
            "{engine}, {round}: {rows:.0} rows/s, {:.2} ms a report of {DEVICES}",
            took.as_secs_f64() * 1e3 / REPORTS as f64
        );
    }
}
