//! The layers of the workspace: which of its crates each library may use. ARCHITECTURE.md draws them.

use std::path::Path;

use anyhow::{Context, Result};

/// Each library with the crates of this workspace that it may depend on, except for tests.
const USES: [(&str, &[&str]); 12] = [
    ("fleet-core", &[]),
    ("fleet-discovery", &["fleet-core"]),
    ("fleet-registry", &["fleet-core"]),
    ("fleet-pairing", &["fleet-core"]),
    ("fleet-inventory", &["fleet-core"]),
    (
        "fleet-store",
        &[
            "fleet-core",
            "fleet-discovery",
            "fleet-registry",
            "fleet-pairing",
            "fleet-inventory",
        ],
    ),
    ("fleet-wire", &["fleet-core"]),
    ("fleet-scan", &["fleet-core", "fleet-discovery"]),
    ("fleet-plugin", &["fleet-core", "fleet-scan", "fleet-wire"]),
    (
        "fleet-agent",
        &[
            "fleet-core",
            "fleet-discovery",
            "fleet-registry",
            "fleet-scan",
            "fleet-wire",
        ],
    ),
    (
        "fleet-server",
        &[
            "fleet-core",
            "fleet-discovery",
            "fleet-registry",
            "fleet-pairing",
            "fleet-inventory",
            "fleet-store",
            "fleet-wire",
        ],
    ),
    ("fleet-sim", &[]),
];

/// Returns a sentence for each dependency that a layer may not have.
pub(super) fn check(root: &Path) -> Result<Vec<String>> {
    let mut violations = Vec::new();
    for (package, permitted) in USES {
        let manifest = root.join(package).join("Cargo.toml");
        let text = std::fs::read_to_string(&manifest)
            .with_context(|| format!("reading {}", manifest.display()))?;
        violations.extend(judge(package, permitted, &text));
    }
    Ok(violations)
}

fn judge(package: &str, permitted: &[&str], manifest: &str) -> Vec<String> {
    let mut section = "";
    let mut violations = Vec::new();
    for line in manifest.lines() {
        if line.starts_with('[') {
            section = line;
        }
        let name = line.split(['.', ' ', '=']).next().unwrap_or_default();
        if section == "[dependencies]" && name.starts_with("fleet-") && !permitted.contains(&name) {
            violations.push(format!(
                "{package} depends on {name}, which is not in a layer below it"
            ));
        }
    }
    violations
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_dependencies_outside_of_tests_count() {
        let manifest = "[dependencies]\nfleet-core.workspace = true\nfleet-store = { workspace = true }\n\
                        [dev-dependencies]\nfleet-sim.workspace = true\n";
        assert_eq!(
            judge("fleet-wire", &["fleet-core"], manifest),
            ["fleet-wire depends on fleet-store, which is not in a layer below it"]
        );
        assert!(judge("fleet-server", &["fleet-core", "fleet-store"], manifest).is_empty());
    }
}
