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

/// All notes of an import.
fn notes(import: &Import) -> String {
    let of_jobs = import.jobs.iter().flat_map(|job| &job.left_out);
    let all: Vec<&str> = of_jobs
        .chain(&import.left_out)
        .map(String::as_str)
        .collect();
    all.join("\n")
}

const EXECBEAT: &str = "execbeat.commands: [{ command: df, timeout: 5, shell: zsh }]\n";

#[test]
fn how_an_output_was_encrypted_is_carried_over_in_both_spellings() {
    let dotted = "output.logstash.hosts: [\"logs:5044\"]
output.logstash.loadbalance: true
output.logstash.worker: 2
output.logstash:
  ssl.certificate_authorities: [\"/etc/ca.pem\"]
  ssl.certificate: client.pem
  ssl.key: /etc/client.key
  ssl.verification_mode: certificate
  ssl.key_passphrase: pa55
  ttl: 60
";
    let nested = "output:
  logstash:
    hosts: logs:5044
    loadbalance: true
    worker: 2
    ttl: 60s
    ssl:
      certificate_authorities: /etc/ca.pem
      certificate: client.pem
      key: /etc/client.key
      verification_mode: certificate
      key_passphrase: pa55
";
    for text in [dotted, nested] {
        let import = imported(&format!("{EXECBEAT}{text}"));
        assert_eq!(
            import.root,
            "[output.lumberjack]\nhosts = [\"logs:5044\"]\nloadbalance = true\nttl = \"60s\"\n\n\
             [output.lumberjack.ssl]\ncertificate_authorities = [\"/etc/ca.pem\"]\n\
             certificate = \"client.pem\"\nkey = \"/etc/client.key\"\n\
             verification_mode = \"certificate\"\n"
        );
        let notes = notes(&import);
        for wanted in [
            "output.logstash.worker: each host has one connection",
            "output.logstash.ssl.key_passphrase: keys have to be unencrypted",
            "looked for beside spoolbeat.toml",
        ] {
            assert!(notes.contains(wanted), "{wanted} in {notes}");
        }
        assert!(!notes.contains("pa55"), "{notes}");
    }
}

#[test]
fn an_encrypted_output_never_becomes_a_plain_one() {
    for text in [
        "output.logstash: { hosts: [h], ssl.ca_sha256: abc }",
        "output.logstash: { hosts: [h], ssl: { enabled: true } }",
        "output.logstash: { hosts: [h], ssl.verification_mode: strict }",
        "output.logstash: { hosts: [h], ssl.certificate_authorities: [\"-----BEGIN CERTIFICATE-----\"] }",
    ] {
        let import = imported(&format!("{EXECBEAT}{text}"));
        assert!(
            import.root.contains("[output.lumberjack.ssl]\n"),
            "{}",
            import.root
        );
        assert_eq!(
            notes(&import).contains("output.logstash.ssl."),
            !text.contains("true"),
            "{text}: {}",
            notes(&import)
        );
    }
}

#[test]
fn each_key_that_is_not_read_is_told() {
    let execbeat = format!(
        "{EXECBEAT}processors: [{{ add_host_metadata: ~ }}]\nname: edge\noutput.elasticsearch.hosts: [h]\n"
    );
    let scriptable = SCRIPTABLE
        .replace("  language:", "  unknown_key: 1\n  language:")
        .replace("    stdout:\n", "    stdout:\n      sideways: true\n")
        .replace("      - stderr\n", "      - stderr\n      - syslog\n")
        .replace(
            "    timeout: 20\n",
            "    timeout: 20\n    ssl: { cipher: x }\n",
        )
        + "processors: [drop]\n";
    let telegraf = "[global_tags]\na = 'b'\n[agent]\ninterval = 30\nhostname = 'x'\n[[inputs.exec]]\n\
        commands = ['a', 'b']\nenvironment = ['BAD', 'A=b']\nmystery = 1\n[inputs.exec.tagpass]\nt = ['a']\n\
        [[outputs.kafka]]\n[secretstores.x]\nid = 'y'\n"
        .to_owned();
    for (text, wanted) in [
        (
            execbeat,
            &[
                "shell: not known here",
                "processors: events are changed",
                "name: not known here",
                "output.elasticsearch.hosts: not known here",
                "outputs other than output.logstash",
            ][..],
        ),
        (
            scriptable,
            &[
                "scriptablebeat.unknown_key: not known here",
                "scriptablebeat.data_stream.stdout.sideways: not known here",
                "syslog in moniror_sources",
                "output.logstash.ssl.cipher: not known here",
                "output.logstash.hosts is written twice",
                "processors: events are changed",
            ],
        ),
        (
            telegraf,
            &[
                "global_tags: write them",
                "agent.hostname: not known here",
                "number 1 of environment: it is not NAME=value",
                "inputs.exec.mystery: not known here",
                "inputs.exec.tagpass: nothing is filtered",
                "outputs.kafka: ",
                "secretstores.x.id: not known here",
                "logstash:5044 is made up",
            ],
        ),
    ] {
        let notes = notes(&imported(&text));
        for wanted in wanted {
            assert!(notes.contains(wanted), "{wanted} in {notes}");
        }
    }
}

#[test]
fn what_is_read_is_not_told_as_unknown() {
    let plain = SCRIPTABLE.replace("output.logstash:\n  hosts: [\"ignored:1\"]\n", "");
    let notes = notes(&imported(&plain));
    assert!(!notes.contains("not known here"), "{notes}");
    assert!(!notes.contains("written twice"), "{notes}");
}

#[test]
fn the_hosts_of_a_scriptable_beat_are_its_own_in_both_spellings_and_made_up_ones_are_told() {
    let (beat, _) = SCRIPTABLE.split_once("output.logstash:").unwrap();
    for text in [
        "output.logstash:\n  hosts: [\"oc-1:5044\"]\n",
        "output.logstash.hosts: [\"oc-1:5044\"]\n",
        "output:\n  logstash:\n    hosts: [\"oc-1:5044\"]\n",
    ] {
        let import = imported(&format!("{beat}{text}"));
        let hosts = "hosts = [\"oc-1:5044\"]\n";
        assert!(import.root.contains(hosts), "{text}: {}", import.root);
        assert!(!notes(&import).contains("names no host"));
    }
    let import = imported(beat);
    assert!(import.root.contains("hosts = [\"opencollector:5044\"]"));
    assert!(notes(&import).contains("names no host; opencollector:5044 is written"));
}

#[test]
fn a_number_is_seconds_wherever_a_duration_is_meant() {
    let telegraf = "[agent]\ninterval = 30\n[[inputs.exec]]\ncommands = ['a']\ntimeout = 1.5\n";
    let import = imported(telegraf);
    let task = load(&import.jobs[0]).task.unwrap();
    assert_eq!(task.schedule, Schedule::Every(Duration::from_secs(30)));
    assert_eq!(task.script.timeout, Some(Duration::from_millis(1500)));
    let task = load(&imported(EXECBEAT).jobs[0]).task.unwrap();
    assert_eq!(task.script.timeout, Some(Duration::from_secs(5)));
}

#[test]
fn a_duration_as_go_writes_them_is_carried_over() {
    for (go, expected) in [
        ("1.5h", Duration::from_secs(5400)),
        ("90s", Duration::from_secs(90)),
        ("1h30m", Duration::from_secs(5400)),
        ("1h0.5m.25s", Duration::from_millis(3_630_250)),
        ("2500000us", Duration::from_millis(2500)),
        ("0.1h", Duration::from_secs(360)),
    ] {
        let text = format!("execbeat.commands:\n  - {{ command: df, schedule: '@every {go}' }}\n");
        let task = load(&imported(&text).jobs[0]).task.unwrap();
        assert_eq!(task.schedule, Schedule::Every(expected), "{go}");
        let text = format!("[agent]\ninterval = '{go}'\n[[inputs.exec]]\ncommands = ['a']\n");
        let task = load(&imported(&text).jobs[0]).task.unwrap();
        assert_eq!(task.schedule, Schedule::Every(expected), "{go}");
    }
    for odd in ["1.5", ".h", "1.5x", "10us", "1..5h", "h", "-1h"] {
        assert_eq!(draft::of_go(odd), None, "{odd}");
    }
}

#[test]
fn what_check_refuses_is_among_the_notes_of_its_job_and_of_the_root() {
    let text = "execbeat.commands:\n  - { command: df, schedule: \"0 0 12 L * ?\" }\n  - { command: du }\n\
        output.logstash: { hosts: [h], bulk_max_size: 1000000 }\n";
    let mut import = imported(text);
    check_aside(&mut import, true, &OsDisk).unwrap();
    let refused = |draft: &Draft| draft.left_out.join("\n").contains("it does not load");
    let jobs: Vec<bool> = import.jobs.iter().map(refused).collect();
    assert_eq!(jobs, [true, false], "{}", notes(&import));
    let notes = notes(&import);
    assert!(notes.contains("jobs/df/job.toml:"), "{notes}");
    assert!(notes.contains("schedule.cron: "), "{notes}");
    assert!(
        notes.contains("has to be mended: output.lumberjack.bulk_max_size: "),
        "{notes}"
    );
    let text = SCRIPTABLE.replace(
        "      - stderr\n",
        "      - files\n    files:\n      paths: [\"/etc/x/*.log\"]\n      after_reading: delete\n",
    );
    let dir = tempfile::tempdir().unwrap();
    files::make_file(&dir.path().join("spoolbeat.toml"), ANY_ROOT, 0o600).unwrap();
    let mut import = imported(&text);
    make(&dir.path().join("jobs"), &import.jobs[0], &OsDisk).unwrap();
    note_refused(&mut import.jobs, dir.path());
    assert!(refused(&import.jobs[0]), "{:?}", import.jobs[0].left_out);
}

#[test]
fn no_key_turns_the_terminal_and_no_second_document_is_lost() {
    let odd = format!("{EXECBEAT}\"\\e[31mred\\nnote: forged\": 1\n");
    let text = report(&imported(&odd), None);
    assert!(
        text.contains("note: \\u{1b}[31mred\\nnote: forged: not known here\n"),
        "{text}"
    );
    let why = import(&format!("{EXECBEAT}---\nmore: 1\n")).unwrap_err();
    assert!(why.contains("several documents"), "{why}");
    imported(&format!("---\n{EXECBEAT}---\n"));
}

#[test]
fn an_encrypted_scriptable_beat_stays_encrypted_and_its_stricter_check_is_told() {
    let text = SCRIPTABLE.replace("ssl_enable: false", "ssl_enable: true");
    let import = imported(&text);
    let ssl = "\n[output.lumberjack.ssl]\nenabled = true\n";
    assert!(import.root.contains(ssl), "{}", import.root);
    assert!(notes(&import).contains("was never checked; now it is"));
    let text = text.replace(
        "    timeout: 20\n",
        "    timeout: 20\n    ssl.verification_mode: none\n",
    );
    let import = imported(&text);
    assert!(
        import
            .root
            .contains(&format!("{ssl}verification_mode = \"none\"\n"))
    );
    assert!(!notes(&import).contains("was never checked; now it is"));
}
