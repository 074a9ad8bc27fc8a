//! The life of plugin processes: restarts, stops, and leftover children.

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

/// A script that writes its process id and that of a child, ignores signals, and never identifies itself.
fn unstoppable(folder: &Path, name: &str, pids: &Path) {
    let script = format!(
        "#!/bin/sh\ntrap '' INT TERM HUP\nsleep 600 &\necho $$ $! > {0}.new\nmv {0}.new {0}\nwait\nsleep 600\n",
        pids.display()
    );
    put(folder, name, &script);
}

async fn process_ids(pids: &Path) -> Vec<String> {
    let text = eventually("the process ids of the plugin", || {
        fs::read_to_string(pids).ok()
    })
    .await;
    text.split_whitespace().map(str::to_owned).collect()
}

async fn all_gone(pids: &[String]) {
    eventually("the plugin's end", || {
        (!pids.iter().any(|pid| runs(pid))).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_exits_is_restarted_with_growing_delays() {
    let (folder, outer) = (folder(), crate::folder());
    let starts = outer.path().join("starts");
    let script = format!("#!/bin/sh\ndate +%s%N >> {}\nexit 1\n", starts.display());
    put(folder.path(), "short", &script);
    let timing = Timing {
        first_backoff: Duration::from_millis(100),
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
        // The script and the delays are measured by different clocks.
        let least = Duration::from_millis(rest - 20);
        assert!(waited >= least, "{waited:?} instead of {rest} ms");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stop_kills_plugins_that_ignore_it_and_their_children() {
    let (folder, outer) = (folder(), crate::folder());
    let files = ["a", "b", "c"].map(|name| outer.path().join(name));
    for file in &files {
        let name = file.file_name().unwrap_or_default().to_string_lossy();
        unstoppable(folder.path(), &name, file);
    }
    let host = fleet_plugin::PluginHost::start(options(folder.path(), quick())).expect("safe");
    let mut pids = Vec::new();
    for file in &files {
        pids.extend(process_ids(file).await);
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
async fn dropping_the_host_kills_plugins_and_their_children() {
    let (folder, outer) = (folder(), crate::folder());
    let file = outer.path().join("pids");
    unstoppable(folder.path(), "stubborn", &file);
    let host = fleet_plugin::PluginHost::start(options(folder.path(), quick())).expect("safe");
    let pids = process_ids(&file).await;
    assert!(pids.iter().all(|pid| runs(pid)));
    drop(host);
    all_gone(&pids).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn children_of_an_ended_plugin_are_killed_before_the_restart() {
    let (folder, outer) = (folder(), crate::folder());
    let file = outer.path().join("pids");
    let script = format!(
        "#!/bin/sh\nsleep 600 > /dev/null 2>&1 &\necho $! > {0}.new\nmv {0}.new {0}\nexit 1\n",
        file.display()
    );
    put(folder.path(), "parent", &script);
    let timing = Timing {
        first_backoff: Duration::from_secs(600),
        max_backoff: Duration::from_secs(600),
        ..Timing::default()
    };
    let host = start(options(folder.path(), timing)).await;
    all_gone(&process_ids(&file).await).await;
    host.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn serving_plugins_are_stopped_in_parallel() {
    let Some(python) = python("life::serving_plugins_are_stopped_in_parallel") else {
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
fn a_guard_that_was_not_started_by_a_host_refuses() {
    let done = std::process::Command::new(env!("CARGO_BIN_EXE_fleet-plugin-guard"))
        .arg("/bin/true")
        .output()
        .expect("runs");
    assert_eq!(done.status.code(), Some(126));
    let text = String::from_utf8_lossy(&done.stderr);
    assert!(text.contains("only a plugin host can start it"), "{text}");
}
