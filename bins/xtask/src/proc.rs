//! Runs other programs: with streamed output and a time limit, with captured output, or with a clean-up that always
//! runs. Independent of the steps. Read [`run`] first, then [`OnExit`].

use std::{
    ffi::OsStr,
    io::{BufRead, BufReader, Write},
    os::unix::{
        fs::{DirBuilderExt, MetadataExt},
        process::CommandExt,
    },
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, ExitStatus, Stdio},
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

/// Time between SIGTERM and SIGKILL for a process group.
const GRACE: Duration = Duration::from_secs(5);

/// How a streamed program ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It ended by itself.
    Status(ExitStatus),
    /// It exceeded its time limit and was stopped with its children.
    Overrun(Duration),
}

impl Ended {
    /// Whether the program ended by itself with status 0.
    pub(crate) fn is_success(&self) -> bool {
        matches!(self, Self::Status(status) if status.success())
    }
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Status(status) => write!(f, "{status}"),
            Self::Overrun(limit) => write!(f, "stopped after {} s", limit.as_secs()),
        }
    }
}

/// Runs a program to its end, prints its standard output, and passes each line to `each_line`.
///
/// The program has its own process group, which is stopped at `limit` and when xtask is interrupted or killed. No test
/// server outlives a run.
pub(crate) fn run(
    command: &mut Command,
    limit: Duration,
    mut each_line: impl FnMut(&str),
) -> Result<Ended> {
    println!("$ {}", shown(command));
    let deadline = Instant::now() + limit;
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .with_context(|| format!("starting {}", command.get_program().display()))?;
    let group = Group::guard(&mut child)?;
    let output = child
        .stdout
        .take()
        .context("a piped child has a standard output")?;
    let (lines, received) = mpsc::sync_channel::<String>(256);
    thread::spawn(move || {
        for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
            if lines
                .send(String::from_utf8_lossy(&line).into_owned())
                .is_err()
            {
                break;
            }
        }
    });
    loop {
        match received.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                println!("{line}");
                each_line(&line);
            }
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => {
                group.stop(&mut child)?;
                return Ok(Ended::Overrun(limit));
            }
        }
    }
    match wait_until(&mut child, deadline)? {
        Some(status) => {
            group.release();
            Ok(Ended::Status(status))
        }
        None => {
            group.stop(&mut child)?;
            Ok(Ended::Overrun(limit))
        }
    }
}

/// Runs a short program and returns its standard output. An error includes the last line of its output.
pub(crate) fn capture(command: &mut Command) -> Result<String> {
    let shown = shown(command);
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("starting {shown}"))?;
    if !output.status.success() {
        let message = last_line(&output.stderr).or_else(|| last_line(&output.stdout));
        bail!(
            "`{shown}` failed ({}): {}",
            output.status,
            message.unwrap_or_else(|| "no output".into())
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Like [`capture`], with text for the program's standard input.
pub(crate) fn capture_with_input(command: &mut Command, input: &str) -> Result<String> {
    let shown = shown(command);
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("starting {shown}"))?;
    let mut stdin = child
        .stdin
        .take()
        .context("a piped child has a standard input")?;
    let input = input.to_owned();
    // A separate thread, because a program that writes while it reads would block both sides.
    let writer = thread::spawn(move || stdin.write_all(input.as_bytes()));
    let output = child.wait_with_output()?;
    // If the program stopped reading early, its own error explains more than the broken pipe.
    let written = writer
        .join()
        .map_err(|_| anyhow::anyhow!("writing to `{shown}` panicked"))?;
    if !output.status.success() {
        let message = last_line(&output.stderr).unwrap_or_else(|| "no output".into());
        bail!("`{shown}` failed ({}): {message}", output.status);
    }
    written.with_context(|| format!("writing to `{shown}`"))?;
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A background program. It is stopped (SIGTERM, then SIGKILL) when dropped and when xtask ends in any way.
#[derive(Debug)]
pub(crate) struct Background {
    child: Child,
    group: Option<Group>,
}

impl Background {
    /// Starts the program in its own process group. The caller configures its standard streams.
    pub(crate) fn start(command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("starting {}", shown(command)))?;
        let group = Some(Group::guard(&mut child)?);
        Ok(Self { child, group })
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        if let Some(group) = self.group.take()
            && let Err(error) = group.stop(&mut self.child)
        {
            eprintln!(
                "xtask: could not stop process {}: {error:#}",
                self.child.id()
            );
        }
    }
}

/// A process group with a watcher that stops it if xtask ends first.
#[derive(Debug)]
struct Group {
    leader: u32,
    watcher: OnExit,
}

impl Group {
    fn guard(leader: &mut Child) -> Result<Self> {
        let id = leader.id();
        let watcher = OnExit::run(
            r#"kill -s TERM -- "-$1"; sleep "$2"; kill -s KILL -- "-$1""#,
            &[id.to_string(), GRACE.as_secs().to_string()],
        );
        if watcher.is_err() {
            // An unguarded group would outlive xtask. The first error matters more than this one.
            let _ = leader.kill();
        }
        Ok(Self {
            leader: id,
            watcher: watcher?,
        })
    }

    fn release(self) {
        self.watcher.disarm();
    }

    fn stop(self, leader: &mut Child) -> Result<()> {
        self.signal("TERM")?;
        let ended = wait_until(leader, Instant::now() + GRACE)?;
        // Also if the leader ended in time, because its children may still run.
        self.signal("KILL")?;
        self.watcher.disarm();
        if ended.is_none() && wait_until(leader, Instant::now() + GRACE)?.is_none() {
            bail!("process {} does not end", leader.id());
        }
        Ok(())
    }

    fn signal(&self, name: &str) -> Result<()> {
        // The shell's built-in `kill`, because slim images have no such program.
        Command::new("sh")
            .args(["-c", r#"kill -s "$1" -- "-$2""#, "kill"])
            .args([name, &self.leader.to_string()])
            .stderr(Stdio::null())
            .status()
            .context("starting sh")?;
        Ok(())
    }
}

/// A shell script that runs when this value is dropped or this process ends in any way.
///
/// A shell waits for end of file on a pipe. The kernel delivers it even after `kill -9`, which no signal handler can
/// handle.
#[derive(Debug)]
pub(crate) struct OnExit {
    watcher: Child,
    pipe: Option<ChildStdin>,
}

impl OnExit {
    /// Starts the watcher; `args` are the script's `$1`, `$2`, ...
    pub(crate) fn run(script: &str, args: &[impl AsRef<OsStr>]) -> Result<Self> {
        let script =
            // The watcher must survive the signal that ends xtask.
            format!("trap '' INT TERM HUP\nif read -r disarmed; then exit 0; fi\n{script}");
        let mut watcher = Command::new("sh")
            .args(["-c", &script, "on-exit"])
            .args(args)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .context("starting sh")?;
        let pipe = watcher.stdin.take();
        Ok(Self { watcher, pipe })
    }

    /// Ends the watcher without running the script.
    pub(crate) fn disarm(mut self) {
        if let Some(mut pipe) = self.pipe.take() {
            // This fails only if the watcher has ended, and then there is nothing to disarm.
            let _ = pipe.write_all(b"\n");
        }
    }
}

impl Drop for OnExit {
    fn drop(&mut self) {
        drop(self.pipe.take());
        if let Err(error) = self.watcher.wait() {
            eprintln!("xtask: lost the clean-up shell: {error}");
        }
    }
}

/// A private temporary directory. It is removed when dropped and when xtask ends in any way.
#[derive(Debug)]
pub(crate) struct Scratch {
    path: PathBuf,
    _removal: OnExit,
}

impl Scratch {
    /// Creates a directory whose name starts with `name`. Fails if it exists, because another user may have created it.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        let mut folder = std::fs::DirBuilder::new();
        folder
            .mode(0o700)
            .create(&path)
            .with_context(|| format!("creating {}", path.display()))?;
        let removal = OnExit::run(r#"rm -rf "$1""#, &[&path])?;
        Ok(Self {
            path,
            _removal: removal,
        })
    }

    /// Its path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Finds a program on PATH or in the system directories that a user's PATH often lacks.
pub(crate) fn which(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|folder| folder.join(program))
        .find(|candidate| {
            candidate
                .metadata()
                .is_ok_and(|m| m.is_file() && m.mode() & 0o111 != 0)
        })
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0)
}

/// The last line that is not blank.
pub(crate) fn last_line(output: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(output);
    text.lines()
        .rev()
        .map(str::trim)
        .find(|line| !line.is_empty())
        .map(str::to_owned)
}

fn wait_until(child: &mut Child, deadline: Instant) -> Result<Option<ExitStatus>> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= deadline {
            return Ok(None);
        }
        thread::sleep(Duration::from_millis(10));
    }
}

fn shown(command: &Command) -> String {
    let parts = std::iter::once(command.get_program()).chain(command.get_args());
    parts
        .map(|part| part.to_string_lossy().into_owned())
        .collect::<Vec<_>>()
        .join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    fn sh(script: &str) -> Command {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        command
    }

    #[test]
    fn every_line_and_the_exit_status_are_returned() {
        let mut lines = Vec::new();
        let ended = run(&mut sh("echo one; printf two; exit 3"), LONG, |line| {
            lines.push(line.to_owned())
        })
        .expect("sh");
        assert_eq!(lines, ["one", "two"]);
        assert!(!ended.is_success());
        assert_eq!(ended.to_string(), "exit status: 3");
    }

    #[test]
    fn a_program_over_its_limit_is_stopped_with_its_children() {
        let mut child = String::new();
        let ended = run(
            &mut sh("sleep 600 & echo $!; wait"),
            Duration::from_millis(300),
            |line| child = line.to_owned(),
        );
        assert!(matches!(ended, Ok(Ended::Overrun(_))), "{ended:?}");
        // A killed orphan may stay a zombie until init reaps it.
        let state = std::fs::read_to_string(format!("/proc/{child}/stat")).unwrap_or_default();
        assert!(
            state.is_empty() || state.contains(") Z"),
            "child {child} still runs: {state}"
        );
    }

    #[test]
    fn a_failed_capture_includes_the_last_line_of_output() {
        let error = capture(&mut sh("echo first >&2; echo 'why it failed' >&2; exit 1"))
            .expect_err("exit 1");
        assert!(error.to_string().contains("why it failed"), "{error}");
        assert!(!error.to_string().contains("first >&2)"), "{error}");
    }

    #[test]
    fn the_script_runs_when_dropped_and_not_when_disarmed() {
        let folder = std::env::temp_dir().join(format!("xtask-on-exit-{}", std::process::id()));
        let touch = |name: &str| {
            OnExit::run(
                r#"mkdir -p "$1" && : > "$1/$2""#,
                &[folder.as_os_str(), name.as_ref()],
            )
        };
        drop(touch("dropped").expect("sh"));
        touch("disarmed").expect("sh").disarm();
        let (dropped, disarmed) = (
            folder.join("dropped").exists(),
            folder.join("disarmed").exists(),
        );
        std::fs::remove_dir_all(&folder).expect("the folder was made");
        assert!(dropped && !disarmed);
    }

    #[test]
    fn the_script_runs_when_its_owner_is_killed() {
        const VICTIM: &str = "XTASK_TEST_VICTIM";
        if let Some(file) = std::env::var_os(VICTIM) {
            let _on_exit = OnExit::run(": > \"$1\"", &[file]).expect("sh");
            // The parent reads this line, then kills.
            eprintln!("armed");
            let _ = std::io::stdin().read_line(&mut String::new());
            return;
        }
        let folder = std::env::temp_dir().join(format!("xtask-victim-{}", std::process::id()));
        std::fs::create_dir(&folder).expect("a fresh folder");
        let file = folder.join("cleaned");
        let mut victim = Command::new(std::env::current_exe().expect("a test binary"))
            .args([
                "--exact",
                "proc::tests::the_script_runs_when_its_owner_is_killed",
                "--nocapture",
            ])
            .env(VICTIM, &file)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the test binary starts");
        let output = BufReader::new(victim.stderr.take().expect("piped"));
        assert!(
            output
                .lines()
                .map_while(Result::ok)
                .any(|line| line == "armed")
        );
        victim.kill().expect("SIGKILL");
        victim.wait().expect("the victim ends");
        let deadline = Instant::now() + LONG;
        while !file.exists() && Instant::now() < deadline {
            thread::sleep(Duration::from_millis(5));
        }
        let cleaned = file.exists();
        std::fs::remove_dir_all(&folder).expect("the folder was made");
        assert!(cleaned, "the clean-up did not run after the kill");
    }
}
