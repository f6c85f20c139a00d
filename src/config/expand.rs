//! Variables in text: `${VAR}` and `${VAR:-default}` from the daemon's environment.
//!
//! Filled in once, at load, and only in string values. `${SPOOLBEAT_*}` is left as it is: those
//! are known only when a run starts, and are nothing but the run's own variables. `$${` writes `${`. Must never know which keys it serves.

use crate::job::RUN_VARIABLES;

/// Variables that the runner fills in per run.
const OWN_PREFIX: &str = "SPOOLBEAT_";

/// `text` with its variables filled in.
///
/// # Errors
/// What `lookup` said of a variable that has no default, or the place that is not a variable.
pub(super) fn expand(
    text: &str,
    lookup: impl Fn(&str) -> Result<String, String>,
) -> Result<String, String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        if rest[..at].ends_with('$') {
            out.push_str(&rest[..at - 1]);
            out.push_str("${");
            rest = &rest[at + 2..];
            continue;
        }
        out.push_str(&rest[..at]);
        let inner = &rest[at + 2..];
        let end = inner.find('}').ok_or_else(|| {
            "`${` without `}`; write ${NAME} or ${NAME:-default}, and $${ for the characters themselves"
                .to_owned()
        })?;
        let (name, default) = match inner[..end].split_once(":-") {
            Some((name, default)) => (name, Some(default)),
            None => (&inner[..end], None),
        };
        if !is_name(name) {
            return Err(format!(
                "`${{{name}}}` does not name a variable; write ${{NAME}} or ${{NAME:-default}}, and $${{ for the characters themselves"
            ));
        }
        if name.starts_with(OWN_PREFIX) {
            if !RUN_VARIABLES.contains(&name) {
                return Err(format!(
                    "`{name}` is no variable of a run; there are {}",
                    RUN_VARIABLES.join(", ")
                ));
            }
            if default.is_some() {
                return Err(format!(
                    "a run's own variables take no default; write ${{{name}}}, which is empty while it is not set"
                ));
            }
            out.push_str(&rest[at..at + 2 + end + 1]);
        } else {
            match (lookup(name), default) {
                (Ok(value), Some(default)) if value.is_empty() => out.push_str(default),
                (Ok(value), _) => out.push_str(&value),
                (Err(_), Some(default)) => out.push_str(default),
                (Err(why), None) => {
                    return Err(format!("{why}, or write ${{{name}:-default}}"));
                }
            }
        }
        rest = &inner[end + 1..];
    }
    out.push_str(rest);
    Ok(out)
}

/// Whether `name` can be a variable's name.
pub(super) fn is_name(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(|c: char| c.is_ascii_digit())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "tests")]
    use super::*;

    fn lookup(name: &str) -> Result<String, String> {
        match name {
            "HOST" => Ok("logs-1".to_owned()),
            "EMPTY" => Ok(String::new()),
            _ => Err(format!("there is no {name}")),
        }
    }

    #[test]
    fn variables_are_filled_in_and_our_own_are_left_for_the_run() {
        let ok = |text: &str| expand(text, lookup).unwrap();
        assert_eq!(ok("plain $HOME and $$"), "plain $HOME and $$");
        assert_eq!(ok("${HOST}:5044"), "logs-1:5044");
        assert_eq!(ok("${NOT:-a}${EMPTY:-b}${EMPTY}${NOT:-}"), "ab");
        assert_eq!(
            ok("${SPOOLBEAT_RUN_ID}-${HOST}"),
            "${SPOOLBEAT_RUN_ID}-logs-1"
        );
        assert_eq!(ok("$${HOST}"), "${HOST}");
    }

    #[test]
    fn a_mistyped_variable_of_a_run_is_a_problem_and_not_an_empty_text() {
        let no = |text: &str| expand(text, lookup).unwrap_err();
        let said = no("${SPOOLBEAT_LAST_SUCESS_AT}");
        assert!(said.contains("SPOOLBEAT_LAST_SUCCESS_AT"), "{said}");
        assert!(no("${SPOOLBEAT_JOB:-x}").contains("write ${SPOOLBEAT_JOB}"));
    }

    #[test]
    fn an_unset_variable_without_a_default_is_a_problem() {
        assert!(expand("${NOT}", lookup).unwrap_err().contains("NOT"));
        assert!(expand("${NOT", lookup).unwrap_err().contains("without"));
        assert!(expand("${a b}", lookup).unwrap_err().contains("${NAME}"));
    }
}
