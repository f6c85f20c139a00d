//! Promises of the envelope.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::collections::BTreeSet;

use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::event::EVENT_BYTES_MAX;

fn cut(skipped: u64) -> Marks {
    Marks {
        skipped,
        ..Marks::default()
    }
}

const AT: Timestamp = Timestamp(1_763_712_488_123);

fn envelope(stream: Stream) -> Envelope {
    let identity = Identity {
        host_name: "web-1".to_owned(),
        agent_id: "agent".to_owned(),
        agent_ephemeral_id: "ephemeral".to_owned(),
        shape: Shape::Ecs,
    };
    let fields = json!({"team": "soc", "site": {"n": 1}});
    let labels = Labels {
        job: "disk",
        run: &RunId::from_text("20261121-080808.123-7f3a9c01"),
        generation: "0123456789abcdef",
        trigger: "schedule",
        scheduled_at: Some(AT),
        tags: &["idp".to_owned(), "a\"b".to_owned()],
        fields: fields.as_object().unwrap(),
    };
    Envelope::new(&identity, &labels, stream)
}

fn text(line: &[u8], skipped: u64) -> Value {
    let mut out = Vec::new();
    assert_eq!(
        envelope(Stream::Stdout).text(&mut out, AT, 7, line, cut(skipped)),
        0
    );
    parsed(&out)
}

#[test]
fn the_text_of_an_error_is_its_error_message() {
    let marks = Marks {
        tells: Tells::Both,
        is_joined: true,
        skipped: 3,
    };
    let mut out = Vec::new();
    let left_out = envelope(Stream::Stderr).text(&mut out, AT, 7, b"no \"disk\"\nat all", marks);
    assert_eq!(left_out, 0);
    let event = parsed(&out);
    assert_eq!(event["message"], "no \"disk\"\nat all");
    assert_eq!(event["error"], json!({"message": "no \"disk\"\nat all"}));
    assert_eq!(
        event["log"],
        json!({"level": "error", "flags": ["multiline", "truncated"]})
    );
    let dense = vec![1; EVENT_BYTES_MAX];
    let mut out = Vec::new();
    let left_out = envelope(Stream::Stderr).text(&mut out, AT, 7, &dense, marks);
    assert!(left_out > 0 && out.len() <= EVENT_BYTES_MAX);
    let event = parsed(&out);
    assert_eq!(event["message"], event["error"]["message"]);
}

fn object(line: &str) -> Value {
    let mut out = b"before".to_vec();
    let wrapped = envelope(Stream::Stdout).json(&mut out, AT, 7, line.as_bytes(), Marks::default());
    assert_eq!(wrapped, Wrapped::Object, "{line}");
    parsed(&out[6..])
}

/// Parses, after a look at the top-level keys: each only once.
fn parsed(out: &[u8]) -> Value {
    struct Keys(BTreeSet<String>);
    impl<'de> Deserialize<'de> for Keys {
        fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
            struct Visit;
            impl<'de> serde::de::Visitor<'de> for Visit {
                type Value = Keys;
                fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Keys, A::Error> {
                    let mut keys = BTreeSet::new();
                    while let Some((key, _)) = map.next_entry::<String, Value>()? {
                        assert!(keys.insert(key.clone()), "{key} twice");
                    }
                    Ok(Keys(keys))
                }
            }
            from.deserialize_map(Visit)
        }
    }
    let shown = String::from_utf8_lossy(out);
    let keys: Keys = serde_json::from_slice(out).unwrap_or_else(|error| panic!("{error}: {shown}"));
    assert!(keys.0.contains("@timestamp"), "{shown}");
    serde_json::from_slice(out).unwrap()
}

/// Whatever a line held, these say where it really came from.
fn assert_identity(event: &Value) {
    assert_eq!(event["event"]["id"], "20261121-080808.123-7f3a9c01.o.7");
    assert_eq!(event["job"], text(b"x", 0)["job"]);
    assert_eq!(event["agent"], text(b"x", 0)["agent"]);
    assert_eq!(event["ecs"], text(b"x", 0)["ecs"]);
    assert_eq!(event["@metadata"], text(b"x", 0)["@metadata"]);
    for key in event.as_object().unwrap().keys() {
        let first = key.split('.').next().unwrap();
        let ours = ["job", "agent", "ecs", "@metadata"].contains(&first) && key != first;
        assert!(!ours && !key.contains('[') && key != "event.id", "{key}");
    }
}

#[test]
fn a_line_is_a_beats_event() {
    assert_eq!(
        text(b"hello \"you\"\t\x01", 0),
        json!({
            "@timestamp": "2025-11-21T08:08:08.123Z",
            "message": "hello \"you\"\t\u{1}",
            "event": {"id": "20261121-080808.123-7f3a9c01.o.7", "dataset": "disk.stdout"},
            "host": {"name": "web-1"},
            "agent": {
                "type": "spoolbeat", "version": env!("CARGO_PKG_VERSION"), "name": "web-1",
                "id": "agent", "ephemeral_id": "ephemeral",
            },
            "ecs": {"version": "8.17.0"},
            "job": {
                "name": "disk", "run_id": "20261121-080808.123-7f3a9c01",
                "generation": "0123456789abcdef", "trigger": "schedule",
                "scheduled_at": "2025-11-21T08:08:08.123Z", "stream": "stdout",
            },
            "tags": ["idp", "a\"b"],
            "fields": {"team": "soc", "site": {"n": 1}},
            "@metadata": {
                "beat": "spoolbeat", "type": "_doc", "version": env!("CARGO_PKG_VERSION"),
                "_id": "20261121-080808.123-7f3a9c01.o.7",
            },
        })
    );
}

#[test]
fn what_was_done_to_a_line_is_told() {
    assert_eq!(
        text(b"a\xffb", 0)["log"],
        json!({"flags": ["invalid_utf8"]})
    );
    let cut = text(b"abc", 5);
    assert_eq!(cut["log"], json!({"flags": ["truncated"]}));
    assert_eq!(
        cut["process"]["io"],
        json!({
            "total_bytes_captured": 3, "total_bytes_skipped": 5,
            "bytes_skipped": [{"offset": 3, "length": 5}],
        })
    );
    assert_eq!(
        text(b"\xff", 5)["log"],
        json!({"flags": ["truncated", "invalid_utf8"]})
    );
}

#[test]
fn an_object_stays_at_the_top_level() {
    let event = object(r#" {"user":{"name":"ada"},"message":"in","n":12345678901234567890} "#);
    assert_identity(&event);
    assert_eq!(event["user"]["name"], "ada");
    assert_eq!(event["message"], "in");
    assert_eq!(event["n"], 12_345_678_901_234_567_890_u64);
    assert!(event.get("script").is_none());
    assert_identity(&object("{}"));
    assert_identity(&object("{ \t}"));
}

#[test]
fn numbers_keep_all_their_digits() {
    for line in [
        r#"{"n":123456789012345678901234567890.123456789}"#,
        r#"{"agent":1,"n":123456789012345678901234567890.123456789}"#,
    ] {
        let mut out = Vec::new();
        let wrapped =
            envelope(Stream::Stdout).json(&mut out, AT, 7, line.as_bytes(), Marks::default());
        assert_eq!(wrapped, Wrapped::Object);
        let out = String::from_utf8(out).unwrap();
        assert!(
            out.contains(":123456789012345678901234567890.123456789"),
            "{out}"
        );
    }
}

#[test]
fn what_a_receiver_may_not_read_is_text() {
    let deep = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let _shallow_enough = object(&deep(99));
    for line in [
        "",
        "1",
        "null",
        "[{}]",
        "{",
        "{\"a\":1,}",
        "{\"a\":1} x",
        "{\"a\":1}{}",
        "{'a':1}",
        "{\"a\":NaN}",
        "{\"a\":1e999}",
        r#"{"a":"\ud800"}"#,
        r#"{"\ud800":1}"#,
        r#"{"b":{"\ud800":1}}"#,
        "{\"a\":\"\u{1}\"}",
        &deep(100),
    ] {
        let mut out = Vec::new();
        let wrapped =
            envelope(Stream::Stdout).json(&mut out, AT, 7, line.as_bytes(), Marks::default());
        assert_eq!(wrapped, Wrapped::Text { left_out: 0 }, "{line}");
        assert_eq!(parsed(&out)["message"], line);
    }
    let mut out = Vec::new();
    for (line, skipped) in [(b"{\"a\":\"\xff\"}".as_slice(), 0), (b"{}", 1)] {
        let wrapped = envelope(Stream::Stdout).json(&mut out, AT, 7, line, cut(skipped));
        assert!(matches!(wrapped, Wrapped::Text { .. }));
    }
}

#[test]
fn a_script_cannot_forge_where_an_event_came_from() {
    for key in ["@metadata", "agent", "ecs", "job"] {
        let event = object(&format!(r#"{{"{key}":{{"name":"evil"}},"x":1}}"#));
        assert_identity(&event);
        assert_eq!(event["script"][key]["name"], "evil");
        assert_eq!(event["x"], 1);
    }
    for key in [
        "job.name",
        "agent.id",
        "event.id",
        "event.id.x",
        "@metadata._id",
        "[job][name]",
        "event.[id]",
        "x]",
        "@timestamp.x",
        "tags.x",
        "fields.team",
        "",
    ] {
        let event = object(&format!(r#"{{"{key}":"evil"}}"#));
        assert_identity(&event);
        assert_eq!(event["script"][key], "evil", "{key}");
        assert!(event.get(key).is_none());
    }
    let escaped = object(r#"{"\u006aob":"evil"}"#);
    assert_identity(&escaped);
    assert_eq!(escaped["script"]["job"], "evil");
}

#[test]
fn event_and_host_are_merged() {
    let event = object(r#"{"event":{"id":"evil","action":"login"},"host":{"os":"linux"}}"#);
    assert_identity(&event);
    assert_eq!(event["event"]["action"], "login");
    assert_eq!(event["event"]["dataset"], "disk.stdout");
    assert_eq!(event["script"], json!({"event": {"id": "evil"}}));
    assert_eq!(event["host"], json!({"os": "linux", "name": "web-1"}));
    let event = object(r#"{"event":{"dataset":"idp.login"},"host":{"name":"db-1"}}"#);
    assert_eq!(event["event"]["dataset"], "idp.login");
    assert_eq!(event["host"], json!({"name": "db-1"}));
    let event = object(r#"{"event":"x","host":"db-1"}"#);
    assert_identity(&event);
    assert_eq!(event["host"], json!({"name": "db-1"}));
    assert_eq!(event["script"], json!({"event": "x"}));
    let event = object(r#"{"event.dataset":"idp.login","host.name":"db-1","host":7}"#);
    assert!(event["event"].get("dataset").is_none());
    assert!(event.get("host").is_none());
    assert_eq!(event["host.name"], "db-1");
    assert_eq!(event["script"], json!({"host": 7}));
}

#[test]
fn tags_are_joined_and_fields_merged() {
    let event = object(r#"{"tags":["x","y"],"fields":{"team":"evil","room":3}}"#);
    assert_eq!(event["tags"], json!(["idp", "a\"b", "x", "y"]));
    assert_eq!(
        event["fields"],
        json!({"team": "soc", "site": {"n": 1}, "room": 3})
    );
    assert_eq!(event["script"], json!({"fields": {"team": "evil"}}));
    let event = object(r#"{"tags":"x","fields":[1]}"#);
    assert_eq!(event["tags"], json!(["idp", "a\"b"]));
    assert_eq!(event["script"], json!({"tags": "x", "fields": [1]}));
    let event = object(r#"{"tags":["x",1]}"#);
    assert_eq!(event["script"], json!({"tags": ["x", 1]}));
    assert_eq!(object(r#"{"tags":[]}"#)["tags"], json!(["idp", "a\"b"]));
}

#[test]
fn a_time_of_the_script_is_kept_when_it_is_one() {
    let time = |value: &str| {
        let event = object(&format!(r#"{{"@timestamp":{value}}}"#));
        (
            event["@timestamp"].clone(),
            event["script"]["@timestamp"].clone(),
        )
    };
    for kept in [
        "2020-01-02T03:04:05Z",
        "2020-01-02T03:04:05.123456789+01:00",
    ] {
        assert_eq!(time(&format!("\"{kept}\"")), (json!(kept), Value::Null));
    }
    // Valid, but not to Logstash.
    assert_eq!(
        time("\"2020-01-02 03:04:05z\""),
        (
            json!("2020-01-02T03:04:05.000Z"),
            json!("2020-01-02 03:04:05z")
        )
    );
    for bad in [
        "\"yesterday\"",
        "1763712488",
        "null",
        "{}",
        "[1]",
        "true",
        "1.5",
        "-1",
    ] {
        let given: Value = serde_json::from_str(bad).unwrap();
        assert_eq!(time(bad), (json!("2025-11-21T08:08:08.123Z"), given));
    }
}

#[test]
fn of_members_with_the_same_name_the_last_wins() {
    let event = object(r#"{"a":1,"b":2,"\u0061":3}"#);
    assert_eq!((&event["a"], &event["b"]), (&json!(3), &json!(2)));
    let event =
        object(r#"{"@timestamp":"2020-01-02T03:04:05Z","@timestamp":"2021-01-02T03:04:05Z"}"#);
    assert_eq!(event["@timestamp"], "2021-01-02T03:04:05Z");
    let many: Vec<String> = (0..200).map(|n| format!("\"k{}\":{n}", n % 150)).collect();
    let event = object(&format!("{{{}}}", many.join(",")));
    assert_eq!((&event["k0"], &event["k149"]), (&json!(150), &json!(149)));
}

#[test]
fn a_script_member_of_its_own_is_not_lost() {
    assert_eq!(object(r#"{"script":1}"#)["script"], 1);
    assert_eq!(
        object(r#"{"script":{"a":1},"job":2}"#)["script"],
        json!({"a": 1, "job": 2})
    );
    assert_eq!(
        object(r#"{"script":{"job":1},"job":2}"#)["script"],
        json!({"script": {"job": 1}, "job": 2})
    );
    assert_eq!(
        object(r#"{"script":"s","job":2}"#)["script"],
        json!({"script": "s", "job": 2})
    );
}

#[test]
fn an_event_is_never_larger_than_the_bound() {
    let envelope = envelope(Stream::Stdout);
    let mut out = Vec::new();
    let dense = vec![b'\x01'; 4 << 20];
    let left_out = envelope.text(&mut out, AT, 1, &dense, Marks::default());
    assert!(out.len() <= EVENT_BYTES_MAX && out.len() > EVENT_BYTES_MAX - 4096);
    let event = parsed(&out);
    let kept = event["message"].as_str().unwrap().len() as u64;
    assert_eq!(kept + left_out, dense.len() as u64);
    assert_eq!(event["process"]["io"]["total_bytes_skipped"], left_out);
    out.clear();
    let long = format!("{{\"a\":\"{}\"}}", "x".repeat(EVENT_BYTES_MAX));
    assert!(matches!(
        envelope.json(&mut out, AT, 1, long.as_bytes(), Marks::default()),
        Wrapped::Text { left_out: 1.. }
    ));
    assert!(out.len() <= EVENT_BYTES_MAX);
}

#[test]
fn a_run_has_a_start_event() {
    let mut out = Vec::new();
    envelope(Stream::Run).run_started(&mut out, AT, 1, Some(42));
    let event = parsed(&out);
    assert_eq!(event["message"], "run of disk started (schedule)");
    assert_eq!(event["log"]["level"], "info");
    assert_eq!(event["process"], json!({"pid": 42}));
    assert_eq!(
        event["event"],
        json!({
            "id": "20261121-080808.123-7f3a9c01.r.1", "dataset": "disk.run", "kind": "event",
            "category": ["process"], "type": ["start"], "action": "job-run",
            "start": "2025-11-21T08:08:08.123Z",
        })
    );
    out.clear();
    envelope(Stream::Run).run_started(&mut out, AT, 1, None);
    assert!(parsed(&out).get("process").is_none());
}

#[test]
fn a_run_has_an_end_event() {
    let mut end = RunEnd {
        started_at: AT,
        at: Timestamp(AT.0 + 1200),
        took: Duration::from_millis(1200),
        outcome: "success",
        verdict: Verdict::Success,
        reason: None,
        pid: Some(42),
        exit_code: Some(0),
        signal: None,
        counts: Some(Counts {
            stdout_lines: 12,
            events: 12,
            bytes_read: 99,
            ..Counts::default()
        }),
    };
    let told = |end: &RunEnd<'_>| {
        let mut out = Vec::new();
        envelope(Stream::Run).run_ended(&mut out, 2, end);
        parsed(&out)
    };
    let event = told(&end);
    assert_eq!(event["@timestamp"], "2025-11-21T08:08:09.323Z");
    assert_eq!(
        event["message"],
        "run of disk ended: success in 1.2s, 12 events"
    );
    assert_eq!(event["event"]["type"], json!(["end"]));
    assert_eq!(event["event"]["outcome"], "success");
    assert_eq!(event["event"]["start"], "2025-11-21T08:08:08.123Z");
    assert_eq!(event["event"]["end"], "2025-11-21T08:08:09.323Z");
    assert_eq!(event["event"]["duration"], 1_200_000_000);
    assert_eq!(event["process"], json!({"pid": 42, "exit_code": 0}));
    assert_eq!(event["job"]["outcome"], "success");
    assert_eq!(event["job"]["counts"]["bytes_read"], 99);
    assert!(event.get("error").is_none());
    let reason = "\u{20ac}".repeat(10_000);
    end.verdict = Verdict::Failure;
    end.outcome = "signalled";
    end.reason = Some(&reason);
    end.signal = Some(9);
    let event = told(&end);
    assert_eq!(event["log"]["level"], "error");
    assert_eq!(event["job"]["signal"], 9);
    assert!(event["error"]["message"].as_str().unwrap().len() <= REASON_BYTES_MAX);
    end.verdict = Verdict::Unknown;
    assert_eq!(told(&end)["event"]["outcome"], "unknown");
    end.outcome = "interrupted";
    end.reason = Some("power cut");
    end.counts = None;
    let event = told(&end);
    assert_eq!(
        event["message"],
        "run of disk ended: interrupted after 1.2s at most: power cut"
    );
    assert!(
        event["job"].get("counts").is_none(),
        "zeros would be a false account"
    );
}

/// All strings and numbers anywhere in a value.
fn leaves(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => map.values().for_each(|value| leaves(value, found)),
        Value::Array(list) => list.iter().for_each(|value| leaves(value, found)),
        leaf => found.push(leaf.to_string()),
    }
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z\"\\\\\u{e9}\n]{0,6}".prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::vec((any_key(), inner), 0..4)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    })
}

fn any_key() -> impl Strategy<Value = String> {
    let ours = proptest::sample::select(vec![
        "@metadata",
        "@timestamp",
        "agent",
        "ecs",
        "job",
        "event",
        "host",
        "tags",
        "fields",
        "script",
        "message",
        "id",
        "name",
        "dataset",
        "team",
    ]);
    prop_oneof![
        3 => ours.clone().prop_map(str::to_owned),
        1 => (ours.clone(), ours).prop_map(|(a, b)| format!("{a}.{b}")),
        2 => "[a-z\\[\\].\"\u{e9}]{0,5}",
    ]
}

proptest! {
    #[test]
    fn any_bytes_are_a_valid_event_of_their_job(
        line in proptest::collection::vec(any::<u8>(), 0..200), skipped in 0..3_u64,
    ) {
        let event = text(&line, skipped);
        assert_identity(&event);
        prop_assert_eq!(event["message"].as_str().unwrap(), String::from_utf8_lossy(&line));
        let mut out = Vec::new();
        let _lane = envelope(Stream::Stdout).json(&mut out, AT, 7, &line, cut(skipped));
        assert_identity(&parsed(&out));
    }

    #[test]
    fn all_that_an_object_holds_comes_out(
        pairs in proptest::collection::vec((any_key(), any_json()), 0..8), pretty in any::<bool>(),
    ) {
        let given = Value::Object(pairs.into_iter().collect());
        let line = if pretty {
            serde_json::to_string_pretty(&given).unwrap()
        } else {
            given.to_string()
        };
        let event = object(&line);
        assert_identity(&event);
        let (mut before, mut after) = (Vec::new(), Vec::new());
        leaves(&given, &mut before);
        leaves(&event, &mut after);
        for leaf in before {
            let place = after.iter().position(|other| *other == leaf);
            prop_assert!(place.is_some(), "{} of {} is not in {}", leaf, line, event);
            after.swap_remove(place.unwrap());
        }
    }

    #[test]
    fn near_objects_never_make_broken_events(line in "[{}\\[\\]\",:a1\\\\ ]{0,30}") {
        let mut out = Vec::new();
        let _lane = envelope(Stream::Stdout).json(&mut out, AT, 7, line.as_bytes(), Marks::default());
        assert_identity(&parsed(&out));
    }
}

#[test]
fn the_open_collector_gets_what_scriptable_beat_sent() {
    let identity = Identity {
        host_name: "web-1".to_owned(),
        agent_id: "agent".to_owned(),
        agent_ephemeral_id: "ephemeral".to_owned(),
        shape: Shape::OpenCollector(Beat {
            name: "ScriptableBeat".to_owned(),
            identifier: "edge".to_owned(),
        }),
    };
    let labels = Labels {
        job: "disk",
        run: &RunId::from_text("R"),
        generation: "g",
        trigger: "schedule",
        scheduled_at: None,
        tags: &[],
        fields: &Map::new(),
    };
    let envelope = Envelope::new(&identity, &labels, Stream::Stderr);
    let told = |tells| {
        let mut out = Vec::new();
        let marks = Marks {
            tells,
            ..Marks::default()
        };
        assert_eq!(envelope.text(&mut out, AT, 1, b"full", marks), 0);
        parsed(&out)
    };
    let event = told(Tells::Event);
    assert_eq!(event["fullyqualifiedbeatname"], "scriptablebeat_edge");
    assert_eq!(event["@version"], "1");
    let beat = json!({"hostname": "web-1", "version": VERSION, "name": "ScriptableBeat"});
    assert_eq!(event["beat"], beat);
    assert_eq!(event["host"], json!({"name": "web-1"}));
    assert!(event["@timestamp"].as_str().unwrap().ends_with('Z'));
    assert_eq!(event["message"], "full");
    assert_eq!(event.get("errormessage"), None);
    let error = told(Tells::Error);
    assert_eq!(
        (&error["errormessage"], error.get("message")),
        (&json!("full"), None)
    );
    assert_eq!(error.get("error"), None);
    let both = told(Tells::Both);
    assert_eq!(
        (&both["errormessage"], &both["message"]),
        (&json!("full"), &json!("full"))
    );
    // A script cannot pass for another beat.
    let mut out = Vec::new();
    let line = br#"{"beat":{"name":"x"},"@version":"2","fullyqualifiedbeatname":"x","n":1}"#;
    let wrapped = envelope.json(&mut out, AT, 1, line, Marks::default());
    assert_eq!(wrapped, Wrapped::Object);
    let event = parsed(&out);
    assert_eq!(event["beat"], beat);
    assert_eq!(event["@version"], "1");
    let displaced = json!({"beat": {"name": "x"}, "@version": "2", "fullyqualifiedbeatname": "x"});
    assert_eq!(event["script"], displaced);
}
