//! The built binaries, and running one of them to its end.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout, Command},
};

use super::within;

/// Where `cargo xtask test` says the binaries are.
const BIN_DIR: &str = "FLEET_BIN_DIR";

/// A binary of the workspace, with nothing of our environment that it would read.
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

/// This test lies in `deps`, beside which the binaries are.
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

/// What a command did.
#[derive(Debug)]
pub(crate) struct Done {
    /// The exit status; -1 when a signal ended it.
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Done {
    /// Insists on success and answers what was printed.
    pub(crate) fn well(self) -> String {
        assert_eq!(self.status, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}

/// Runs a command to its end.
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

/// A command that is talked to: it asks on standard output and is answered on standard input.
#[derive(Debug)]
pub(crate) struct Dialogue {
    child: Child,
    stdin: ChildStdin,
    stdout: Lines<BufReader<ChildStdout>>,
    heard: String,
}

impl Dialogue {
    /// Starts it.
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
            heard: String::new(),
        }
    }

    /// Gives it a line.
    pub(crate) async fn say(&mut self, line: &str) {
        let line = format!("{line}\n");
        // When it has ended already, `end` says why.
        let _ = self.stdin.write_all(line.as_bytes()).await;
    }

    /// Waits for a line that begins so, and answers its rest; none when the command ends without.
    pub(crate) async fn hear(&mut self, begin: &str) -> Option<String> {
        loop {
            let line = within(begin, self.stdout.next_line()).await.ok()??;
            self.heard.push_str(&line);
            self.heard.push('\n');
            if let Some(rest) = line.strip_prefix(begin) {
                return Some(rest.to_owned());
            }
        }
    }

    /// Says nothing more and waits for its end.
    pub(crate) async fn end(self) -> Done {
        let Self {
            mut child,
            stdin,
            stdout,
            heard,
        } = self;
        drop(stdin);
        let mut done = Done {
            status: 0,
            stdout: heard,
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
