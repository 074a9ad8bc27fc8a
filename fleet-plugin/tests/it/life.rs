//! How plugins live and die: started again, stopped, and never left behind.

use std::{
    fs,
    path::Path,
    time::{Duration, Instant},
};

use fleet_plugin::Timing;

use crate::{
    eventually, folder, options,
    plugins::{put, put_acme, python},
    quick, runs, start,
};

/// A script that writes its number and that of a child down, ignores polite signals, and never says who it is.
fn stubborn(folder: &Path, name: &str, pids: &Path) {
    let script = format!(
        "#!/bin/sh\ntrap '' INT TERM HUP\nsleep 600 &\necho $$ $! > {0}.new\nmv {0}.new {0}\nwait\nsleep 600\n",
        pids.display()
    );
    put(folder, name, &script);
}

async fn numbers(pids: &Path) -> Vec<String> {
    let text = eventually("the plugin's numbers", || fs::read_to_string(pids).ok()).await;
    text.split_whitespace().map(str::to_owned).collect()
}

async fn all_gone(pids: &[String]) {
    eventually("the plugin's end", || {
        (!pids.iter().any(|pid| runs(pid))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_ends_is_started_again_with_longer_and_longer_rests() {
    let (folder, outer) = (folder(), crate::folder());
    let starts = outer.path().join("starts");
    let script = format!("#!/bin/sh\ndate +%s%N >> {}\nexit 1\n", starts.display());
    put(folder.path(), "short", &script);
    let timing = Timing {
        first_rest: Duration::from_millis(100),
        ..Timing::default()
    };
    let host = start(options(folder.path(), timing)).await;
    let text = eventually("four starts", || {
        let text = fs::read_to_string(&starts).unwrap_or_default();
        (text.lines().count() >= 4).then_some(text)
    })
    .await;
    host.stop().await;
    let times: Vec<u64> = text.lines().filter_map(|line| line.parse().ok()).collect();
    for (pair, rest) in times.windows(2).zip([100, 200, 400]) {
        let waited = Duration::from_nanos(pair[1] - pair[0]);
        // Two clocks: that of the script, and that which rests are measured by.
        let least = Duration::from_millis(rest - 20);
        assert!(waited >= least, "{waited:?} instead of {rest} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_ends_stubborn_plugins_with_all_that_they_started() {
    let (folder, outer) = (folder(), crate::folder());
    let files = ["a", "b", "c"].map(|name| outer.path().join(name));
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        stubborn(folder.path(), &name, file);
    }
    let host = fleet_plugin::PluginHost::start(options(folder.path(), quick())).expect("safe");
    let mut pids = Vec::new();
    for file in &files {
        pids.extend(numbers(file).await);
    }
    assert_eq!(pids.len(), 6);
    assert!(pids.iter().all(|pid| runs(pid)));
    let asked = Instant::now();
    host.stop().await;
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
    all_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_host_that_is_dropped_leaves_nothing_behind() {
    let (folder, outer) = (folder(), crate::folder());
    let file = outer.path().join("pids");
    stubborn(folder.path(), "stubborn", &file);
    let host = fleet_plugin::PluginHost::start(options(folder.path(), quick())).expect("safe");
    let pids = numbers(&file).await;
    assert!(pids.iter().all(|pid| runs(pid)));
    drop(host);
    all_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_plugin_leaves_behind_is_killed_before_it_is_started_again() {
    let (folder, outer) = (folder(), crate::folder());
    let file = outer.path().join("pids");
    let script = format!(
        "#!/bin/sh\nsleep 600 > /dev/null 2>&1 &\necho $! > {0}.new\nmv {0}.new {0}\nexit 1\n",
        file.display()
    );
    put(folder.path(), "parent", &script);
    let timing = Timing {
        first_rest: Duration::from_secs(600),
        longest_rest: Duration::from_secs(600),
        ..Timing::default()
    };
    let host = start(options(folder.path(), timing)).await;
    all_gone(&numbers(&file).await).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plugins_that_serve_are_stopped_all_at_a_time() {
    let Some(python) = python("life::plugins_that_serve_are_stopped") else {
        return;
    };
    let folder = folder();
    for name in ["a", "b", "c"] {
        put_acme(folder.path(), name, &python);
    }
    let host = start(options(folder.path(), Timing::default())).await;
    let asked = Instant::now();
    host.stop().await;
    assert!(
        asked.elapsed() < Duration::from_secs(5),
        "{:?}",
        asked.elapsed()
    );
}

#[test]
fn a_guard_that_no_host_started_refuses() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-plugin-guard"))
        .arg("/bin/true")
        .output()
        .expect("runs");
    assert_eq!(done.status.code(), Some(126));
    let said = String::from_utf8_lossy(&done.stderr);
    assert!(said.contains("by its host only"), "{said}");
}
