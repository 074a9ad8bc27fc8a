//! The steps in Python: a client in another language, and the journeys through the web page. Both are in `tests/python`
//! and run in a virtual environment in the target directory.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result};

use crate::{
    apt,
    live::{Demo, Server},
    page, proc,
    session::Session,
    steps::Verdict,
};

const LIMIT: Duration = Duration::from_secs(20 * 60);

const FOLDER: &str = "tests/python";

/// The browser's tests, which are a separate step: the journeys on a real server, the page in states that a real server
/// cannot be brought into on demand, and the pictures of the documents.
const BROWSER: [&str; 10] = [
    JOURNEY,
    "test_main_journeys.py",
    "test_page.py",
    "test_page_scans.py",
    "test_page_figures.py",
    "test_overview.py",
    "test_device.py",
    "test_announcements.py",
    "test_sign_in_page.py",
    "test_pictures.py",
];
const JOURNEY: &str = "test_journey.py";

/// The demo's devices and many refusing addresses. The scan is long enough to reload the page during it.
const JOURNEY_TARGETS: &str = "127.77.0.0/19";

pub(crate) fn client(session: &mut Session) -> Result<Verdict> {
    let folder = session.root.join(FOLDER);
    if !folder.join("requirements.txt").exists() {
        return Ok(Verdict::Skipped(format!(
            "there is no {FOLDER}/requirements.txt"
        )));
    }
    let python = match environment(session, &folder) {
        Ok(python) => python,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    install_proxies();
    let server = Server::start(&session.bin_dir)?;
    session.suite(LIMIT, |_, names| {
        let mut pytest = pytest(&python, &folder, &server.url, &server.key);
        match names {
            [] => pytest.args(BROWSER.iter().flat_map(|file| ["--ignore", file])),
            names => pytest.args(names),
        };
        pytest
    })
}

pub(crate) fn browser(session: &mut Session) -> Result<Verdict> {
    let folder = session.root.join(FOLDER);
    if !folder.join(JOURNEY).exists() {
        return Ok(Verdict::Skipped(format!("there is no {FOLDER}/{JOURNEY}")));
    }
    let prepared =
        environment(session, &folder).and_then(|python| Ok((python, Browser::find_or_install()?)));
    let (python, browser) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(Verdict::Skipped(format!("{error:#}"))),
    };
    install_more_browsers();
    let demo = Demo::start(&session.bin_dir)?;
    let axe = page::axe(session);
    if let Err(error) = &axe {
        println!("accessibility is not tested: {error:#}");
    }
    session.suite(LIMIT, |_, names| {
        let mut pytest = pytest(&python, &folder, &demo.url, &demo.key);
        pytest
            .env("FLEET_JOURNEY_TARGETS", JOURNEY_TARGETS)
            .env("FLEET_OPERATOR_EMAIL", &demo.email)
            .env("FLEET_OPERATOR_PASSWORD", &demo.password)
            .env("FLEET_CHROMIUM", &browser.chromium)
            .env("FLEET_CHROMEDRIVER", &browser.driver);
        if let Ok(axe) = &axe {
            pytest.env("FLEET_AXE", axe);
        }
        match names {
            [] => pytest.args(BROWSER),
            names => pytest.args(names),
        };
        pytest
    })
}

/// Prepares Python for tests that host a plugin. Without it, these tests skip themselves.
pub(crate) fn provide(session: &mut Session) {
    match environment(session, &session.root.join(FOLDER)) {
        Ok(python) => session.python = Some(python),
        Err(error) => println!("Python is not available to the tests: {error:#}"),
    }
}

/// Installs the reverse proxies of docs/operating.md. The tests of a missing one skip themselves by name.
fn install_proxies() {
    for proxy in ["nginx", "haproxy", "caddy", "apache2"] {
        if proc::which(proxy).is_none()
            && let Err(error) = apt::install(&[proxy])
        {
            println!("{proxy} is not tested: {error:#}");
        }
    }
}

/// Installs the browsers that walk the main journeys besides Chromium. The tests of a missing one skip themselves by name.
fn install_more_browsers() {
    for (program, package) in [
        ("firefox-esr", "firefox-esr"),
        ("WebKitWebDriver", "webkit2gtk-driver"),
        ("Xvfb", "xvfb"),
    ] {
        if proc::which(program).is_none()
            && let Err(error) = apt::install(&[package])
        {
            println!("{program} is not available to the tests: {error:#}");
        }
    }
}

fn pytest(python: &Path, folder: &Path, url: &str, key: &str) -> Command {
    let mut command = Command::new(python);
    command
        .current_dir(folder)
        // -rsfE lists skipped and failed tests. Caches must not be written into the sources.
        .args(["-m", "pytest", "-rsfE", "-p", "no:cacheprovider"])
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("FLEET_SERVER_URL", url)
        .env("FLEET_OPERATOR_KEY", key);
    command
}

/// Creates the virtual environment if it is missing or its requirements have changed. Returns its Python.
fn environment(session: &Session, folder: &Path) -> Result<PathBuf> {
    let target = session
        .bin_dir
        .parent()
        .context("the programs are not in a target directory")?;
    let venv = target.join("venv");
    let python = venv.join("bin/python");
    let (wanted, stamp) = (
        folder.join("requirements.txt"),
        venv.join("requirements.txt"),
    );
    let wanted_text =
        std::fs::read(&wanted).with_context(|| format!("reading {}", wanted.display()))?;
    if python.exists() && std::fs::read(&stamp).is_ok_and(|installed| installed == wanted_text) {
        return Ok(python);
    }
    let create = || {
        proc::capture(
            Command::new("python3")
                .args(["-m", "venv", "--clear"])
                .arg(&venv),
        )
    };
    if create().is_err() {
        // Debian has a part of the module in a separate package.
        apt::install(&["python3", "python3-venv"])?;
        create()?;
    }
    let mut pip = Command::new(&python);
    pip.args([
        "-m",
        "pip",
        "install",
        "--quiet",
        "--disable-pip-version-check",
        "-r",
    ])
    .arg(&wanted);
    proc::capture(&mut pip).context("the Python packages cannot be installed")?;
    std::fs::write(&stamp, wanted_text).with_context(|| format!("writing {}", stamp.display()))?;
    Ok(python)
}

/// Chromium and its driver.
#[derive(Debug)]
struct Browser {
    chromium: PathBuf,
    driver: PathBuf,
}

impl Browser {
    fn find_or_install() -> Result<Self> {
        if let Some(browser) = Self::find() {
            return Ok(browser);
        }
        apt::install(&["chromium", "chromium-driver"])?;
        Self::find().context("the packages contain no chromium or no chromedriver")
    }

    fn find() -> Option<Self> {
        Some(Self {
            chromium: proc::which("chromium")?,
            driver: proc::which("chromedriver")?,
        })
    }
}
