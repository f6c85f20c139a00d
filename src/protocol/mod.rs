//! The Lumberjack protocol without sockets: frames, and one session for each side.
//!
//! Both sessions are plain state: bytes and the time go in, facts come out. This module must
//! never know sockets, TLS, queues or outputs. What is known of real peers decides every rule
//! here: go-lumber 0.2, logstash-input-beats 7.0, Filebeat, pylogbeat, Vector and Graylog.

pub mod client;
pub mod frame;
pub mod pairs;
pub mod server;
