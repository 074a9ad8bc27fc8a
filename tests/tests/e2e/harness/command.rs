//! Runs the built binaries as child processes.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::within;

/// Variable in which `cargo xtask test` passes the directory of the binaries.
const BIN_DIR: &str = "FLEET_BIN_DIR";

/// Returns a command for a binary of the workspace, without the environment variables that the binary reads.
pub(crate) fn binary(name: &str, folder: &Path) -> Command {
    let path = bin_dir().join(name);
    assert!(
        path.is_file(),
        "{} is missing: run `cargo build --workspace --bins` first",
        path.display()
    );
    let mut command = Command::new(path);
    let ours = |name: &str| {
        ["FLEETD_", "FLEETNODE_", "FLEET_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
    };
    for (variable, _) in std::env::vars_os() {
        if variable.to_str().is_some_and(ours) {
            command.env_remove(variable);
        }
    }
    command.current_dir(folder).kill_on_drop(true);
    command
}

/// Returns the parent of `deps`, where cargo puts both this test and the binaries.
fn bin_dir() -> PathBuf {
    if let Some(named) = std::env::var_os(BIN_DIR) {
        return named.into();
    }
    let own = std::env::current_exe().expect("this test has a path");
    own.ancestors()
        .nth(2)
        .expect("this test lies in target/PROFILE/deps")
        .to_owned()
}

/// The result of a command.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit status; -1 if a signal ended the command.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Asserts success and returns the standard output.
    pub(crate) fn succeeded(self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command until it exits.
pub(crate) async fn run(mut command: Command) -> Done {
    let what = format!("the end of {command:?}");
    command.stdin(Stdio::null());
    let output = within(&what, command.output())
        .await
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    Done {
        status: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A running command that prompts on standard output and reads answers from standard input.
#[derive(Debug)]
pub(crate) struct Dialogue {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    output: String,
}

impl Dialogue {
    /// Starts the command.
    pub(crate) fn begin(mut command: Command) -> Self {
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?} does not start: {error}"));
        let stdin = child.stdin.take().expect("standard input is piped");
        let stdout = child.stdout.take().expect("standard output is piped");
        Self {
            child,
            stdin,
            stdout: BufReader::new(stdout).lines(),
            output: String::new(),
        }
    }

    /// Writes a line to standard input.
    pub(crate) async fn write_line(&mut self, line: &str) {
        let line = format!("{line}\n");
        // If the command has exited, `end` reports why.
        let _ = self.stdin.write_all(line.as_bytes()).await;
    }

    /// Waits for a line with this prefix and returns its rest; `None` if the command exits first.
    pub(crate) async fn read_after(&mut self, begin: &str) -> Option<String> {
        loop {
            let line = within(begin, self.stdout.next_line()).await.ok()??;
            self.output.push_str(&line);
            self.output.push('\n');
            if let Some(rest) = line.strip_prefix(begin) {
                return Some(rest.to_owned());
            }
        }
    }

    /// Closes standard input and waits until the command exits.
    pub(crate) async fn end(self) -> Done {
        let Self {
            mut child,
            stdin,
            stdout,
            output,
        } = self;
        drop(stdin);
        let mut done = Done {
            status: 0,
            stdout: output,
            stderr: String::new(),
        };
        let rest = async {
            let _ = stdout.into_inner().read_to_string(&mut done.stdout).await;
            if let Some(mut stderr) = child.stderr.take() {
                let _ = stderr.read_to_string(&mut done.stderr).await;
            }
            child.wait().await.expect("a child can be waited for")
        };
        let status = within("the end of a dialogue", rest).await;
        done.status = status.code().unwrap_or(-1);
        done
    }
}
