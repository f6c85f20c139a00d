//! The daemon's own events, in the words of ECS.
//!
//! A heartbeat is `event.kind: state` (ECS 8.17 has no kind of that name) with
//! `event.action: heartbeat` and `service.state`; an overdue job is an `alert`. Must never decide
//! what is worth telling.

use std::time::Duration;

use serde_json::json;

use super::Envelope;
use super::VERSION;
use super::escape::number;
use super::escape::quoted;
use super::lines::head;
use crate::event::Notice;
use crate::event::ServiceState;
use crate::event::WhyMissed;
use crate::units::Timestamp;
use crate::units::show_duration;

/// How a notice is put.
struct Told {
    message: String,
    level: &'static str,
    kind: &'static str,
    category: &'static str,
    action: &'static str,
    kinds: &'static str,
    /// Members of `job` beside those of each event, each with a comma before it.
    job: String,
}

impl Envelope {
    /// Appends the event of something that the daemon itself has to tell: number `n` of them.
    pub fn notice(&self, out: &mut Vec<u8>, at: Timestamp, n: u64, notice: &Notice) {
        let told = told(notice);
        head(out, at);
        match notice {
            Notice::Heartbeat(state) if self.lines.is_open_collector => {
                out.extend_from_slice(b"\"heartbeat\":");
                quoted(out, &self.collected_heartbeat(at, *state));
            }
            _ => {
                out.extend_from_slice(b"\"message\":");
                quoted(out, &told.message);
            }
        }
        out.extend_from_slice(b",\"log\":{\"level\":");
        quoted(out, told.level);
        out.extend_from_slice(b"},\"event\":{\"id\":\"");
        out.extend_from_slice(&self.lines.id);
        number(out, n);
        out.extend_from_slice(b"\",\"dataset\":");
        out.extend_from_slice(&self.dataset);
        for (key, value) in [("kind", told.kind), ("action", told.action)] {
            out.extend_from_slice(format!(",\"{key}\":\"{value}\"").as_bytes());
        }
        for (key, value) in [("category", told.category), ("type", told.kinds)] {
            out.extend_from_slice(format!(",\"{key}\":[\"{value}\"]").as_bytes());
        }
        out.extend_from_slice(b"},");
        if let Notice::Heartbeat(state) = notice {
            let service = json!({"name": self.service, "version": VERSION, "state": state.name()});
            out.extend_from_slice(format!("\"service\":{service},").as_bytes());
        }
        self.rest(out, told.job.as_bytes(), n);
        out.push(b'}');
    }

    /// A heartbeat as Scriptable Beat sends it: JSON in a string, the time in nanoseconds of whole
    /// seconds in spite of its name.
    fn collected_heartbeat(&self, at: Timestamp, state: ServiceState) -> String {
        let (code, description) = match state {
            ServiceState::Started => (1, "Service started"),
            ServiceState::Running => (2, "Service running"),
            ServiceState::Stopped => (3, "Service stopped"),
        };
        let nanoseconds = at.0.div_euclid(1_000).saturating_mul(1_000_000_000);
        json!({
            "service_name": self.service,
            "service_version": VERSION,
            "time": {"seconds": nanoseconds},
            "status": {"code": code, "description": description},
        })
        .to_string()
    }
}

const INFO: Told = Told {
    message: String::new(),
    level: "info",
    kind: "event",
    category: "process",
    action: "",
    kinds: "info",
    job: String::new(),
};

/// Of what the queue suffered.
const HARM: Told = Told {
    level: "error",
    kind: "alert",
    kinds: "error",
    category: "process",
    message: String::new(),
    action: "",
    job: String::new(),
};

fn told(notice: &Notice) -> Told {
    match notice {
        Notice::Heartbeat(state) => Told {
            message: format!("spoolbeat {}", said(*state)),
            kind: "state",
            action: "heartbeat",
            kinds: match state {
                ServiceState::Started => "start",
                ServiceState::Running => "info",
                ServiceState::Stopped => "end",
            },
            ..INFO
        },
        Notice::Overdue {
            job,
            expect_every,
            last_success_at,
        } => Told {
            message: overdue(job, *expect_every, *last_success_at),
            level: "warn",
            kind: "alert",
            action: "job-overdue",
            job: about(job),
            ..INFO
        },
        Notice::OnTime { job } => Told {
            message: format!("job {job} has succeeded again"),
            action: "job-on-time",
            job: about(job),
            ..INFO
        },
        Notice::Pressure { percent } => Told {
            message: format!(
                "the queue is {percent} % full: schedules pause, or stretch where the job says so"
            ),
            level: "warn",
            action: "queue-pressure",
            ..INFO
        },
        Notice::Quarantined { parts } => Told {
            message: format!(
                "{parts} damaged parts of the queue were set aside in queue/quarantine"
            ),
            action: "queue-damage",
            ..HARM
        },
        Notice::CursorLost { output } => Told {
            message: format!(
                "the cursor of output {output} was lost: all that is kept is sent to it again, with the same event.id"
            ),
            action: "cursor-lost",
            ..HARM
        },
        Notice::Missed {
            output,
            why,
            events,
            from,
            to,
        } => Told {
            message: missed(output, *why, *events, (*from, *to)),
            level: "warn",
            kind: match why {
                WhyMissed::QueueFull => "alert",
                WhyMissed::Skipped | WhyMissed::Forgotten => "event",
            },
            action: "output-missed",
            job: format!(
                ",\"output\":{}",
                json!({"name": output, "reason": why.name(), "events": events, "from": from, "to": to})
            ),
            ..INFO
        },
        Notice::PressureOver => Told {
            message: "the queue has room again: schedules go on".to_owned(),
            action: "queue-pressure-over",
            ..INFO
        },
    }
}

const fn said(state: ServiceState) -> &'static str {
    match state {
        ServiceState::Started => "has started",
        ServiceState::Running => "is running",
        ServiceState::Stopped => "stops",
    }
}

fn overdue(job: &str, expect_every: Duration, last_success_at: Option<Timestamp>) -> String {
    let every = show_duration(expect_every);
    match last_success_at {
        Some(at) => {
            format!(
                "job {job} has not succeeded for {every}: its last successful run began at {at}"
            )
        }
        None => format!("job {job} has not succeeded for {every}, nor ever before"),
    }
}

fn missed(output: &str, why: WhyMissed, events: u64, (from, to): (u64, u64)) -> String {
    let what = match events {
        1 => "1 event".to_owned(),
        events => format!("{events} events"),
    };
    let which = format!("output {output}: {what} of the numbers {from} to {to}");
    match why {
        WhyMissed::QueueFull => format!("{which} were given up for it, as the queue was full"),
        WhyMissed::Skipped => format!("{which} were skipped, as a person has said"),
        WhyMissed::Forgotten => format!("{which} waited for it when a person had it forgotten"),
    }
}

/// The job that is spoken of, apart from the one that speaks.
fn about(job: &str) -> String {
    format!(",\"about\":{}", json!(job))
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;
    use crate::event::OWN_JOB;
    use crate::event::RunId;
    use crate::event::Stream;
    use crate::event::envelope::Beat;
    use crate::event::envelope::Identity;
    use crate::event::envelope::Labels;
    use crate::event::envelope::Shape;

    fn envelope(shape: Shape) -> Envelope {
        let identity = Identity {
            host_name: "web-1".to_owned(),
            agent_id: "a".to_owned(),
            agent_ephemeral_id: "e".to_owned(),
            shape,
        };
        let labels = Labels {
            job: OWN_JOB,
            run: &RunId::from_text("R"),
            generation: VERSION,
            trigger: "daemon",
            scheduled_at: None,
            tags: &[],
            fields: &serde_json::Map::new(),
        };
        Envelope::new(&identity, &labels, Stream::Daemon)
    }

    #[test]
    fn the_open_collector_gets_the_heartbeat_that_scriptable_beat_sent() {
        let beat = Beat {
            name: "scriptablebeat".to_owned(),
            identifier: String::new(),
        };
        let mut out = Vec::new();
        let notice = Notice::Heartbeat(ServiceState::Started);
        envelope(Shape::OpenCollector(beat)).notice(
            &mut out,
            Timestamp(1_763_712_488_123),
            1,
            &notice,
        );
        let event: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(event["fullyqualifiedbeatname"], "scriptablebeat_");
        assert_eq!(event.get("message"), None);
        let heartbeat = event["heartbeat"].as_str().unwrap();
        let heartbeat: serde_json::Value = serde_json::from_str(heartbeat).unwrap();
        let expected = json!({
            "service_name": "scriptablebeat",
            "service_version": VERSION,
            "time": {"seconds": 1_763_712_488_000_000_000_i64},
            "status": {"code": 1, "description": "Service started"},
        });
        assert_eq!(heartbeat, expected);
    }

    #[test]
    fn every_notice_is_one_json_object_that_says_who_speaks_and_of_whom() {
        let envelope = envelope(Shape::Ecs);
        let job = "disk \"x\"".to_owned();
        for (notice, action, kind) in [
            (
                Notice::Heartbeat(ServiceState::Running),
                "heartbeat",
                "state",
            ),
            (
                Notice::Overdue {
                    job: job.clone(),
                    expect_every: Duration::from_secs(3600),
                    last_success_at: None,
                },
                "job-overdue",
                "alert",
            ),
            (Notice::OnTime { job }, "job-on-time", "event"),
            (Notice::Pressure { percent: 81 }, "queue-pressure", "event"),
            (Notice::PressureOver, "queue-pressure-over", "event"),
            (Notice::Quarantined { parts: 2 }, "queue-damage", "alert"),
            (
                Notice::CursorLost {
                    output: "siem".to_owned(),
                },
                "cursor-lost",
                "alert",
            ),
            (
                Notice::Missed {
                    output: "siem".to_owned(),
                    why: WhyMissed::QueueFull,
                    events: 7,
                    from: 11,
                    to: 20,
                },
                "output-missed",
                "alert",
            ),
        ] {
            let mut out = Vec::new();
            envelope.notice(&mut out, Timestamp(1_763_712_488_123), 3, &notice);
            let event: serde_json::Value = serde_json::from_slice(&out).unwrap();
            assert_eq!(event["event"]["action"], action, "{event}");
            assert_eq!(event["event"]["kind"], kind, "{event}");
            assert_eq!(event["event"]["id"], "R.d.3", "{event}");
            assert_eq!(event["@metadata"]["_id"], "R.d.3", "{event}");
            assert_eq!(event["job"]["name"], OWN_JOB, "{event}");
            let output =
                json!({"name": "siem", "reason": "queue-full", "events": 7, "from": 11, "to": 20});
            assert_eq!(
                event["job"]["output"] == output,
                action == "output-missed",
                "{event}"
            );
            let is_about = action.starts_with("job-");
            assert_eq!(event["job"]["about"] == "disk \"x\"", is_about, "{event}");
            assert_eq!(
                event["service"]["state"] == "running",
                action == "heartbeat",
                "{event}"
            );
        }
    }
}
