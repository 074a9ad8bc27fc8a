//! Files that are no plugins, or bad ones.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use fleet_plugin::{FolderError, PluginHost, Timing};

use crate::{folder, options, plugins::put, quick, start, trouble};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_that_begins_wrong_is_down_and_says_why() {
    for (script, expected) in [
        ("echo hello; sleep 600", "is `hello`, not `1|1|tcp"),
        (
            "echo '2|1|tcp|127.0.0.1:10007|grpc'; sleep 600",
            "version `2` of the handshake",
        ),
        (
            "echo '1|7|tcp|127.0.0.1:10007|grpc'; sleep 600",
            "version `7` of the driver protocol",
        ),
        (
            "echo '1|1|tcp|10.0.0.7:10007|grpc'; sleep 600",
            "`10.0.0.7:10007`: a loopback address",
        ),
        (
            "echo '1|1|tcp|127.0.0.1:1|grpc'; sleep 600",
            "does not answer Handshake: unavailable",
        ),
        (
            "echo '1|1|unix|/nowhere/sock|grpc|'; sleep 600",
            "does not answer Handshake: unavailable",
        ),
        (
            "head -c 100000 /dev/zero | tr '\\0' x; echo; sleep 600",
            "more than 4096 bytes",
        ),
        ("exec 1>&-; sleep 600", "did not say who it is within 3s"),
        ("sleep 600", "did not say who it is within 3s"),
        ("exit 0", "ended with status 0"),
        (
            "printf 'a licence\\033[31m is missing\\n' >&2; exit 7",
            "status 7, and said `a licence\\u{1b}[31m is missing`",
        ),
        ("kill -9 $$", "signal 9 ended it"),
    ] {
        let folder = folder();
        put(folder.path(), "bad", &format!("#!/bin/sh\n{script}\n"));
        let timing = Timing {
            start: Duration::from_secs(3),
            first_rest: Duration::from_secs(60),
            ..quick()
        };
        let host = start(options(folder.path(), timing)).await;
        let said = trouble(&host).unwrap_or_default();
        assert!(said.starts_with("is down: "), "{script}: {said}");
        assert!(said.contains(expected), "{script}: {said}");
        host.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_is_no_program_is_down() {
    let folder = folder();
    put(folder.path(), "bad", "\u{7f}ELF, or so it says");
    let host = start(options(folder.path(), quick())).await;
    let said = trouble(&host).unwrap_or_default();
    assert!(said.contains("cannot be started"), "{said}");
    host.stop().await;
}

#[tokio::test]
async fn nothing_is_started_where_others_can_write() {
    let folder = folder();
    let marker = folder.path().join("was-run");
    let script = format!("#!/bin/sh\ntouch {}\n", marker.display());
    put(folder.path(), "plugin", &script);
    let open = fs::Permissions::from_mode(0o777);
    fs::set_permissions(folder.path(), open).expect("chmod");
    let refused = PluginHost::start(options(folder.path(), quick())).expect_err("is open");
    assert!(matches!(refused, FolderError::Unsafe { .. }), "{refused}");
    assert!(refused.to_string().contains("chmod go-w"), "{refused}");
    assert!(!marker.exists());
}

#[tokio::test]
async fn links_and_files_that_others_can_write_are_left_out_and_told() {
    let (folder, outer) = (folder(), crate::folder());
    let program = put(outer.path(), "program", "#!/bin/sh\n");
    std::os::unix::fs::symlink(&program, folder.path().join("a-link")).expect("links");
    let open = put(folder.path(), "b-open", "#!/bin/sh\n");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o757)).expect("chmod");
    let host = start(options(folder.path(), quick())).await;
    assert!(host.drivers().is_empty());
    let told: Vec<_> = host
        .skipped()
        .iter()
        .map(|skipped| skipped.problem.split(" (").next().unwrap_or_default())
        .collect();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].starts_with("is a symbolic link"), "{told:?}");
    assert_eq!(told[1], "can be written by others");
}
