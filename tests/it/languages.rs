//! The command line by which each language is started, to the letter.
//!
//! Stand-ins of the interpreters print what they were started with. They say nothing of what the
//! interpreters make of it: where a real one is missing, the test says that a stand-in stood in for it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::harness::Keep;
use crate::harness::Logstash;
use crate::harness::SOON;
use crate::harness::Spool;
use crate::harness::wait_until;

/// The name in `job.toml`, the program, and what it is given before the script's path.
const LANGUAGES: [(&str, &str, &str); 7] = [
    ("python", "python3", "-u"),
    ("bash", "bash", ""),
    ("sh", "sh", ""),
    ("powershell", "pwsh", "-NoProfile -NonInteractive -File"),
    ("node", "node", ""),
    ("perl", "perl", ""),
    ("ruby", "ruby", ""),
];

/// Prints its own name and its arguments, one a line.
const STAND_IN: &str =
    "#!/bin/sh\nprintf '%s\\n' \"${0##*/}\"\nfor a in \"$@\"; do printf '%s\\n' \"$a\"; done\n";

/// Where a program is on this machine's PATH.
fn installed(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).is_file())
}

fn say(line: &str) {
    drop(writeln!(std::io::stdout(), "{line}"));
}

fn job(language: &str) -> String {
    format!(
        "[script]\nrun = \"a script\"\nlanguage = \"{language}\"\nargs = [\"two words\", \"$HOME;'\\\"\", \"\"]\n[schedule]\nonce = true\n[capture.stdout]\nformat = \"document\"\n"
    )
}

fn place_stand_ins(bin: &Path) {
    fs::create_dir(bin).unwrap();
    for (_, program, _) in LANGUAGES {
        let file = bin.join(program);
        fs::write(&file, STAND_IN).unwrap();
        fs::set_permissions(&file, fs::Permissions::from_mode(0o755)).unwrap();
    }
}

#[test]
fn each_language_is_started_by_exactly_the_command_line_that_is_documented() {
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let bin = spool.root().join("bin");
    place_stand_ins(&bin);
    for (language, program, _) in LANGUAGES {
        if !installed(program) {
            say(&format!(
                "STAND-IN {program}: {language} is not installed here; its command line is checked, not that it takes it"
            ));
        }
        spool.job(language, &job(language), "a script", "");
    }
    let path = std::env::var("PATH").unwrap();
    spool.start_with(&[("PATH", &format!("{}:{path}", bin.display()))]);
    for (language, program, before) in LANGUAGES {
        wait_until(SOON, &format!("{language} has run"), || {
            !logstash.lines(language).is_empty()
        });
        let copies = spool.root().join("state").join(language);
        let generation = spool.job_status(language)["generation"].clone();
        let script = copies
            .join("generations")
            .join(generation.as_str().unwrap())
            .join("a script");
        let mut wanted = vec![program];
        wanted.extend(before.split_whitespace());
        wanted.extend([script.to_str().unwrap(), "two words", "$HOME;'\"", ""]);
        let printed = logstash.lines(language).concat();
        assert_eq!(
            printed.trim_end(),
            wanted.join("\n").trim_end(),
            "{language}"
        );
    }
    spool.stop();
}

#[test]
fn powershell_runs_a_script_where_it_is_installed() {
    if !installed("pwsh") {
        say(
            "SKIP powershell_runs_a_script_where_it_is_installed: pwsh is not installed; a stand-in shows its command line",
        );
        return;
    }
    let logstash = Logstash::new(Keep::Events);
    let mut spool = Spool::new(logstash.port());
    let toml = "[script]\nrun = \"job.ps1\"\nargs = [\"two words\"]\n[schedule]\nonce = true\n";
    spool.job(
        "job",
        toml,
        "job.ps1",
        "param($a)\nWrite-Output \"got $a\"\n",
    );
    spool.start();
    wait_until(SOON * 3, "its line arrives", || {
        logstash.lines("job") == ["got two words"]
    });
    spool.stop();
}
