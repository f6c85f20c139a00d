//! Turning a line into an event's JSON (stub, being written).
