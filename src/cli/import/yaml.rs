//! YAML text to plain values.
//!
//! Must never know what the values mean.

use saphyr::LoadableYamlNode;
use saphyr::Scalar;
use saphyr::Yaml;
use serde_json::Value;

/// Deepest nesting that is followed; people write configurations of five levels.
const DEPTH_MAX: usize = 64;

/// The only document of `text`.
pub(super) fn parse(text: &str) -> Result<Value, String> {
    let documents = Yaml::load_from_str(text).map_err(|error| format!("no valid YAML: {error}"))?;
    let Some((first, others)) = documents.split_first() else {
        return Ok(Value::Null);
    };
    for other in others {
        if !value(other, 0)?.is_null() {
            return Err(
                "it holds several documents; import each from a file of its own".to_owned(),
            );
        }
    }
    value(first, 0)
}

fn value(yaml: &Yaml<'_>, depth: usize) -> Result<Value, String> {
    if depth > DEPTH_MAX {
        return Err(format!("nested deeper than {DEPTH_MAX}"));
    }
    Ok(match yaml {
        Yaml::Value(Scalar::Boolean(truth)) => Value::from(*truth),
        Yaml::Value(Scalar::Integer(number)) => Value::from(*number),
        Yaml::Value(Scalar::FloatingPoint(number)) => Value::from(number.into_inner()),
        Yaml::Value(Scalar::String(text)) => Value::from(text.as_ref()),
        Yaml::Sequence(items) => items
            .iter()
            .map(|item| value(item, depth + 1))
            .collect::<Result<_, _>>()?,
        Yaml::Mapping(members) => members
            .iter()
            .map(|(key, item)| Ok((name(key)?, value(item, depth + 1)?)))
            .collect::<Result<serde_json::Map<_, _>, String>>()?
            .into(),
        Yaml::Tagged(_, inner) => value(inner, depth + 1)?,
        _ => Value::Null,
    })
}

/// A key as text.
fn name(key: &Yaml<'_>) -> Result<String, String> {
    match value(key, DEPTH_MAX)? {
        Value::String(text) => Ok(text),
        Value::Array(_) | Value::Object(_) => Err("a key is a list or a map".to_owned()),
        scalar => Ok(scalar.to_string()),
    }
}
