//! The location of failing cases of property tests: one folder at the top of the workspace. The default of proptest
//! is a folder in each crate.

/// Returns the proptest configuration of this workspace. Failing cases of the property tests named `$name` are kept
/// in `proptest-regressions/<crate>-<name>.txt` beside the crate's folder. A second argument sets the number of
/// cases. The calling crate must depend on proptest.
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
