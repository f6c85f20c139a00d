//! Configurations as their programs' own templates have them, and what they become.
#![expect(clippy::unwrap_used, reason = "tests")]

use super::*;
use crate::config::Defaults;
use crate::config::Grants;
use crate::config::Standing;
use crate::config::check_folder;
use crate::config::load_job;
use crate::disk::OsDisk;
use crate::job::Format;
use crate::job::Job;
use crate::job::Language;
use crate::job::Step;
use crate::process;
use crate::queue::Action;
use crate::run::Phase;
use crate::schedule::Schedule;
use std::time::Duration;

const SCRIPTABLE: &str = r#"
scriptablebeat:
  language: python
  required_modules:
    - requests==2.32.4
  scripts:
    first_run: |
      import os
      os.makedirs("state", exist_ok=True)
    startup_run: |
      print("warm")
    scheduled_run: |
      import sys
      print('It is "here"')
      print("oops", file=sys.stderr)
  scheduler:
    frequency: "90"
    run_mode: keep_running
  data_stream:
    capture:
      first_run: no
      startup_run: yes
      scheduled_run: true
    moniror_sources:
      - stdout
      - stderr
    stdout:
      report_as_log_in_stream: true
    stderr:
      report_as_error_in_stream: true
      log_in_beats_log: true
  heartbeatinterval: 30
  beatIdentifier: edge 1
output.logstash:
  hosts: ["ignored:1"]
output:
  logstash:
    hosts: ["oc-1:5044", "oc-2:5044"]
    ssl_enable: false
    timeout: 20
"#;

/// The job that a draft makes, as a daemon would load it.
fn load(draft: &Draft) -> Job {
    let dir = tempfile::tempdir().unwrap();
    make(dir.path(), draft, &OsDisk).unwrap();
    let folder = dir.path().join(&draft.name);
    let daemon = process::own_uid();
    check_folder(&draft.name, &folder, daemon).unwrap();
    let standing = Standing {
        owner: daemon,
        daemon,
        grants: Grants::default(),
    };
    let outputs = [crate::config::Outlet::to("lumberjack")];
    let none = Defaults::none();
    load_job(&draft.name, &folder, "0", &standing, &none, &outputs)
        .map_err(|problems| format!("{problems:?}\n{}", draft.toml))
        .unwrap()
}

fn imported(text: &str) -> Import {
    let mut imported = import(text).unwrap();
    name_jobs(&mut imported.jobs, None).unwrap();
    imported
}

#[test]
fn a_scriptable_beat_becomes_a_job_that_does_the_same() {
    let import = imported(SCRIPTABLE);
    let job = load(&import.jobs[0]);
    assert_eq!(job.name, "edge-1");
    let task = job.task.as_ref().unwrap();
    assert_eq!(task.script.language, Language::Python);
    assert_eq!(task.schedule, Schedule::EveryAfter(Duration::from_secs(90)));
    assert!(task.stdout.events && !task.stdout.errors && !task.stdout.log);
    assert!(!task.stderr.events && task.stderr.errors && task.stderr.log);
    assert_eq!(task.stderr.phases, [Phase::Startup, Phase::Run]);
    assert_eq!(task.script.modules, ["requests==2.32.4"]);
    let step = |name: &str| {
        Some(Step {
            run: name.to_owned(),
            language: Language::Python,
        })
    };
    assert_eq!(task.first_run, step("first_run.py"));
    assert_eq!(task.startup, step("startup.py"));
    let scheduled = &import.jobs[0].files[0];
    assert!(
        scheduled.1.contains("print('It is \"here\"')"),
        "{scheduled:?}"
    );
    let left_out = import.jobs[0].left_out.join("\n");
    assert!(
        left_out.contains("run_mode") && left_out.contains("only the first"),
        "{left_out}"
    );
    for line in [
        "hosts = [\"oc-1:5044\", \"oc-2:5044\"]",
        "timeout = \"20s\"",
        "shape = \"opencollector\"",
        "identifier = \"edge 1\"",
        "every = \"30s\"",
    ] {
        assert!(import.root.contains(line), "{line} in {}", import.root);
    }
}

#[test]
fn acceptance_g_both_spellings_of_monitor_sources_are_taken() {
    for key in ["moniror_sources", "monitor_sources"] {
        let import = imported(&SCRIPTABLE.replace("moniror_sources", key));
        let task = load(&import.jobs[0]).task.unwrap();
        assert!(task.stdout.events && task.stderr.errors, "{key}");
    }
}

#[test]
fn what_was_not_captured_stays_uncaptured_and_is_told() {
    let import = imported(&SCRIPTABLE.replace("      - stderr\n", ""));
    let task = load(&import.jobs[0]).task.unwrap();
    assert!(task.stdout.events);
    assert!(!task.stderr.events && !task.stderr.errors && !task.stderr.log);
    let left_out = import.jobs[0].left_out.join("\n");
    assert!(left_out.contains("stderr was not captured"), "{left_out}");
}

#[test]
fn harvested_files_keep_their_clean_up() {
    let files = "    - files\n    files:\n      paths: [\"/var/spool/a/*.log\"]\n      after_reading: flush_to_empty\n";
    let text = SCRIPTABLE.replace(
        "      - stderr\n",
        &files.replace("    - files\n", "      - files\n"),
    );
    let job = load(&imported(&text).jobs[0]);
    assert_eq!(job.files[0].paths, ["/var/spool/a/*.log"]);
    assert_eq!(job.files[0].after_ack, Some(Action::Truncate));
}

#[test]
fn each_frequency_becomes_what_was_done_and_a_deadly_one_is_told() {
    for (frequency, seconds, told) in [
        ("\"90\"", 90, false),
        ("90", 90, false),
        ("\"2h\"", 7200, false),
        ("\"0\"", 60, false),
        ("\"500ms\"", 60, true),
        ("\"\"", 60, true),
        ("soon", 60, true),
    ] {
        let text = SCRIPTABLE.replace("frequency: \"90\"", &format!("frequency: {frequency}"));
        let import = imported(&text);
        let schedule = &load(&import.jobs[0]).task.unwrap().schedule;
        let wanted = Schedule::EveryAfter(Duration::from_secs(seconds));
        assert_eq!(*schedule, wanted, "{frequency}");
        let left_out = import.jobs[0].left_out.join("\n");
        assert_eq!(left_out.contains("ended the scheduler"), told, "{left_out}");
    }
}

#[test]
fn a_script_that_is_not_there_or_empty_is_no_step_and_a_strange_language_is_told() {
    let text = SCRIPTABLE
        .replace("    startup_run: |\n      print(\"warm\")\n", "")
        .replace(
            "      import os\n      os.makedirs(\"state\", exist_ok=True)\n",
            "      # nothing yet\n",
        )
        .replace("language: python", "language: ruby");
    let import = imported(&text);
    let task = load(&import.jobs[0]).task.unwrap();
    assert_eq!((&task.first_run, &task.startup), (&None, &None));
    let left_out = import.jobs[0].left_out.join("\n");
    assert!(left_out.contains("it knew no such language"), "{left_out}");
}

#[test]
fn modules_are_the_words_that_a_shell_made_of_them_but_for_options() {
    let text = SCRIPTABLE.replace(
        "- requests==2.32.4",
        "- requests attrs==25.3.0\n    - --upgrade",
    );
    let import = imported(&text);
    let task = load(&import.jobs[0]).task.unwrap();
    assert_eq!(task.script.modules, ["requests", "attrs==25.3.0"]);
    let left_out = import.jobs[0].left_out.join("\n");
    assert!(
        left_out.contains("--upgrade in required_modules"),
        "{left_out}"
    );
}

#[test]
fn what_looks_like_a_variable_stays_the_text_that_it_was() {
    let text = SCRIPTABLE.replace("edge 1", "${HOME}");
    let job = imported(&text.replace(
        "      - stderr\n",
        "      - files\n    files:\n      paths: [\"/a/${b}.log\"]\n",
    ));
    assert_eq!(load(&job.jobs[0]).files[0].paths, ["/a/${b}.log"]);
    assert!(
        job.root.contains("identifier = \"$${HOME}\""),
        "{}",
        job.root
    );
}

#[test]
fn each_command_of_an_execbeat_becomes_a_job() {
    let text = r#"
execbeat:
  commands:
    - schedule: "@every 5s"
      command: echo
      args: "Hello  it's"
      document_type: echo
      fields: { host: myhost, review: 1 }
    - schedule: "0 */5 * * *"
      command: /usr/bin/df
output.logstash:
  hosts: ["logs:5044"]
"#;
    let import = imported(text);
    let job = load(&import.jobs[0]);
    let task = job.task.as_ref().unwrap();
    assert_eq!(task.schedule, Schedule::Every(Duration::from_secs(5)));
    assert_eq!(task.stdout.format, Format::Document);
    assert!(task.stderr.errors);
    assert_eq!(job.fields["document_type"], "echo");
    assert_eq!(job.fields["review"], 1);
    assert_eq!(
        import.jobs[0].files[0].1,
        "#!/bin/sh\nexec 'echo' 'Hello' 'it'\\''s'\n"
    );
    let second = load(&import.jobs[1]);
    assert_eq!(second.name, "df");
    let Schedule::Cron(cron) = &second.task.unwrap().schedule else {
        panic!("no cron");
    };
    assert_eq!(cron.to_string(), "0 */5 * * * *", "seconds come first");
    assert!(import.root.contains("hosts = [\"logs:5044\"]"));
}

#[test]
fn each_command_of_telegraf_becomes_a_job() {
    let text = r#"
[agent]
interval = "30s"
[[inputs.cpu]]
[[inputs.exec]]
commands = ["/tmp/test.sh", "/usr/bin/collect --foo='a b'", "/tmp/collect_*.sh"]
timeout = "7s"
environment = ["KEY=a value"]
name_suffix = "_mine"
data_format = "json"
[inputs.exec.tags]
site = "b"
[[inputs.exec]]
commands = ["sh /tmp/test.sh"]
interval = "1h"
data_format = "influx"
"#;
    let import = imported(text);
    let names: Vec<&str> = import.jobs.iter().map(|job| job.name.as_str()).collect();
    assert_eq!(names, ["test", "collect", "collect_", "sh"]);
    let job = load(&import.jobs[1]);
    let task = job.task.as_ref().unwrap();
    assert_eq!(task.schedule, Schedule::Every(Duration::from_secs(30)));
    assert_eq!(task.script.timeout, Some(Duration::from_secs(7)));
    assert_eq!(task.script.env["KEY"], "a value");
    assert_eq!(task.stdout.format, Format::Document);
    assert!(task.stderr.log && !task.stderr.events);
    assert_eq!(job.fields["site"], "b");
    assert_eq!(
        import.jobs[1].files[0].1,
        "#!/bin/sh\nexec '/usr/bin/collect' '--foo=a b'\n"
    );
    let last = load(&import.jobs[3]).task.unwrap();
    assert_eq!(last.schedule, Schedule::Every(Duration::from_secs(3600)));
    assert_eq!(last.stdout.format, Format::Text);
    assert!(
        import
            .left_out
            .iter()
            .any(|line| line.contains("inputs.cpu"))
    );
}

#[test]
fn what_is_none_of_the_three_is_refused_in_words() {
    for text in [
        "filebeat.inputs: []",
        "[[inputs.cpu]]",
        "a: [",
        "execbeat: 3",
        "scriptablebeat:",
        "",
    ] {
        let why = import(text).unwrap_err();
        assert!(
            !why.is_empty() && !why.contains("panicked"),
            "{text}: {why}"
        );
    }
}

#[test]
fn a_job_that_is_there_is_not_changed() {
    let dir = tempfile::tempdir().unwrap();
    let import = imported(SCRIPTABLE);
    make(dir.path(), &import.jobs[0], &OsDisk).unwrap();
    let error = make(dir.path(), &import.jobs[0], &OsDisk).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
}
