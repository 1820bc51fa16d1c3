//! Where the `dat` command is, and where what it logs goes.

use std::path::{Path, PathBuf};

/// `DAT_BIN`, or the `dat` of the profile that the tests were built in.
#[must_use]
pub fn dat_binary() -> PathBuf {
    let path = std::env::var_os("DAT_BIN").map_or_else(|| profile_folder().join("dat"), PathBuf::from);
    assert!(
        path.is_file(),
        "there is no {}: run `cargo build --bin dat --features dat/faults` first, or set DAT_BIN",
        path.display()
    );
    path
}

/// A folder for the logs of the current test, empty.
#[must_use]
pub fn log_folder() -> PathBuf {
    let target = profile_folder().parent().map_or_else(|| PathBuf::from("target"), Path::to_path_buf);
    let folder = target.join("test-logs").join(test_name().replace("::", "."));
    // Of an earlier run, or nothing.
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for logs");
    folder
}

fn profile_folder() -> PathBuf {
    let test = std::env::current_exe().expect("the path of this test");
    // target/<profile>/deps/<test>, or target/<profile>/<program>
    let folder = test.parent().expect("a program lies in a folder");
    let profile = if folder.ends_with("deps") { folder.parent() } else { Some(folder) };
    profile.expect("target/<profile>").to_path_buf()
}

/// The test's name: that of its thread.
fn test_name() -> String {
    match std::thread::current().name() {
        Some(name) if name != "main" => name.to_owned(),
        _ => std::env::var("NEXTEST_TEST_NAME").unwrap_or_else(|_| format!("process-{}", std::process::id())),
    }
}
