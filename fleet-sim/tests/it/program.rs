//! The program itself: flags, the ready line, the end by SIGTERM.

use std::{
    io::{BufRead, BufReader},
    process::{Command, Output, Stdio},
};

use fleet_sim::Site;

fn program(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_fleet-sim"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    program(arguments).output().expect("it runs")
}

#[test]
fn a_printed_site_is_the_site_of_its_flags_and_starts_again_from_its_file() {
    let flags = [
        "--subnet",
        "127.80.0.0/24",
        "--devices",
        "20",
        "--seed",
        "4",
        "--http-port",
        "8080",
    ];
    let printed = run(&[&flags[..], &["--print-site"]].concat());
    assert!(printed.status.success());
    let text = String::from_utf8(printed.stdout).expect("UTF-8");
    assert_eq!(Site::from_json(&text).expect("a site").devices.len(), 20);

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("site.json");
    std::fs::write(&path, &text).expect("written");
    let path = path.to_str().expect("UTF-8");
    let again = run(&["--site", path, "--print-site"]);
    assert_eq!(String::from_utf8(again.stdout).expect("UTF-8"), text);

    let truth = String::from_utf8(run(&["--site", path, "--print-truth"]).stdout).expect("UTF-8");
    assert_eq!(truth.lines().count(), 20);
}

#[test]
fn it_says_when_it_is_ready_and_ends_by_sigterm() {
    let flags = [
        "--subnet",
        "127.80.1.0/24",
        "--devices",
        "20",
        "--http-port",
        "8080",
    ];
    let mut child = program(&flags)
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("its output"));
    stdout.read_line(&mut line).expect("a line");
    assert_eq!(line, "ready: 20 devices on ports 4028,8080\n");
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("it is there");
    assert!(child.wait().expect("it ends").success());
}

#[test]
fn wrong_flags_end_with_64_and_a_broken_site_names_its_fault() {
    assert_eq!(run(&["--devices", "many"]).status.code(), Some(64));
    let narrow = run(&["--subnet", "127.80.2.0/30", "--devices", "9"]);
    assert_eq!(narrow.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&narrow.stderr).contains("9 devices do not fit"));
}
