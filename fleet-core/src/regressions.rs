//! Where property tests keep the cases that once failed: one folder at the top of the workspace
//! instead of proptest's default, a folder in each crate.

/// The proptest configuration of this workspace: failing cases of the property tests named `$name`
/// are kept in `proptest-regressions/<crate>-<name>.txt` beside the crate's folder. A second
/// argument sets the number of cases. The caller's crate needs proptest.
#[macro_export]
macro_rules! regressions {
    ($name:literal) => {
        $crate::regressions!($name, 256)
    };
    ($name:literal, $cases:expr) => {
        ::proptest::test_runner::Config {
            cases: $cases,
            failure_persistence: Some(Box::new(
                ::proptest::test_runner::FileFailurePersistence::Direct(concat!(
                    env!("CARGO_MANIFEST_DIR"),
                    "/../proptest-regressions/",
                    env!("CARGO_PKG_NAME"),
                    "-",
                    $name,
                    ".txt"
                )),
            )),
            ..::proptest::test_runner::Config::default()
        }
    };
}
