//! Files that are not plugins, and broken plugins.

use std::{fs, os::unix::fs::PermissionsExt, time::Duration};

use fleet_plugin::{FolderError, PluginHost, Timing};

use crate::{folder, options, plugins::put, problem, quick, start};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_plugin_with_a_wrong_start_is_down_with_the_reason() {
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
            "`10.0.0.7:10007`; a loopback address",
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
        ("exec 1>&-; sleep 600", "did not identify itself within 3 s"),
        ("sleep 600", "did not identify itself within 3 s"),
        ("exit 0", "ended with status 0"),
        (
            "printf 'a licence\\033[31m is missing\\n' >&2; exit 7",
            "status 7; its last output was `a licence\\u{1b}[31m is missing`",
        ),
        ("kill -9 $$", "ended by signal 9"),
    ] {
        let folder = folder();
        put(folder.path(), "bad", &format!("#!/bin/sh\n{script}\n"));
        let timing = Timing {
            start_timeout: Duration::from_secs(3),
            first_backoff: Duration::from_secs(60),
            ..quick()
        };
        let host = start(options(folder.path(), timing)).await;
        let text = problem(&host).unwrap_or_default();
        assert!(text.starts_with("is down: "), "{script}: {text}");
        assert!(text.contains(expected), "{script}: {text}");
        host.stop().await;
    }
}

#[tokio::test]
async fn a_file_that_cannot_be_executed_is_down() {
    let folder = folder();
    put(folder.path(), "bad", "\u{7f}ELF, or so it says");
    let host = start(options(folder.path(), quick())).await;
    let text = problem(&host).unwrap_or_default();
    assert!(text.contains("cannot start the plugin"), "{text}");
    host.stop().await;
}

#[tokio::test]
async fn nothing_in_a_folder_that_others_can_write_is_started() {
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
async fn links_and_files_that_others_can_write_are_skipped_with_the_reason() {
    let (folder, outer) = (folder(), crate::folder());
    let program = put(outer.path(), "program", "#!/bin/sh\n");
    std::os::unix::fs::symlink(&program, folder.path().join("a-link")).expect("links");
    let open = put(folder.path(), "b-open", "#!/bin/sh\n");
    fs::set_permissions(&open, fs::Permissions::from_mode(0o757)).expect("chmod");
    let host = start(options(folder.path(), quick())).await;
    assert!(host.drivers().is_empty());
    let notes: Vec<_> = host
        .skipped()
        .iter()
        .map(|skipped| skipped.problem.split(" (").next().unwrap_or_default())
        .collect();
    assert_eq!(notes.len(), 2, "{notes:?}");
    assert!(notes[0].starts_with("is a symbolic link"), "{notes:?}");
    assert_eq!(notes[1], "can be written by others");
}
