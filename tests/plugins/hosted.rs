//! Helpers for tests with plugins: a Python that can run one, and devices that it knows. Included by path.

use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::{IpAddr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::{Arc, Mutex},
    thread,
};

/// Variable in which `cargo xtask test` passes a Python with the packages of `tests/python`.
const PYTHON: &str = "FLEET_TEST_PYTHON";
/// Variable with the file that collects skipped tests.
const SKIP_LOG: &str = "FLEET_SKIP_LOG";
/// Port of the plugin's devices.
pub(crate) const PORT: u16 = 4477;

/// Returns a Python with gRPC. Returns `None` and records a skip of `test` if there is none.
pub(crate) fn python(test: &str) -> Option<PathBuf> {
    let named = std::env::var_os(PYTHON).map(PathBuf::from);
    let python = named.unwrap_or_else(|| "python3".into());
    let found = Command::new(&python)
        .args([
            "-c",
            "import grpc, google.protobuf, sys; print(sys.executable)",
        ])
        .stderr(Stdio::null())
        .output();
    let path = found.ok().filter(|found| found.status.success());
    let path = path.map(|found| String::from_utf8_lossy(&found.stdout).trim().into());
    if path.is_none() {
        skip(
            test,
            &format!("no Python with grpcio; {PYTHON} can name one"),
        );
    }
    path
}

#[expect(clippy::print_stdout, reason = "the test runner shows it on request")]
fn skip(test: &str, reason: &str) {
    let line = format!("{test}: {reason}\n");
    print!("skipped {line}");
    let Some(log) = std::env::var_os(SKIP_LOG) else {
        return;
    };
    fs::OpenOptions::new()
        .append(true)
        .create(true)
        .open(log)
        .and_then(|mut file| file.write_all(line.as_bytes()))
        .expect("the skip log can be written");
}

/// Creates a directory that only this user can write to.
pub(crate) fn private(folder: &Path) {
    fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("chmod");
}

/// Writes an executable into a directory.
pub(crate) fn put(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).expect("written");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("chmod");
    path
}

/// Writes the Python plugin into a directory.
pub(crate) fn put_acme(folder: &Path, name: &str, python: &Path) -> PathBuf {
    let text = include_str!("acme.py");
    let (_, program) = text.split_once('\n').expect("more than one line");
    put(folder, name, &format!("#!{}\n{program}", python.display()))
}

/// A device on a loopback address. It answers every `WHO` with the next of its replies, and repeats the last one.
#[derive(Debug)]
pub(crate) struct Device {
    asked: Arc<Mutex<usize>>,
}

impl Device {
    /// Starts a device that runs until the test process exits.
    pub(crate) fn start(address: IpAddr, words: &[&str]) -> Self {
        let listener = TcpListener::bind((address, PORT)).expect("a free address");
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        let asked = Arc::new(Mutex::new(0));
        let count = Arc::clone(&asked);
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let mut request = String::new();
                let read = BufReader::new(&stream).read_line(&mut request);
                if read.is_err() || request != "WHO\n" {
                    continue;
                }
                let mut count = count.lock().expect("no thread crashed");
                let word = words.get(*count).or(words.last());
                *count += 1;
                let word = word.map_or("", String::as_str);
                let _ = (&stream).write_all(format!("{word}\n").as_bytes());
            }
        });
        Self { asked }
    }

    /// Returns the number of `WHO` requests.
    pub(crate) fn asked(&self) -> usize {
        *self.asked.lock().expect("no thread crashed")
    }
}
