//! Finds numbers that JSON has no form for.
//!
//! `serde_json` writes NaN and the infinities as `null`, which would change an event silently.
//! Writes nothing; must never judge anything else.

use std::fmt;

use serde::Serialize;
use serde::ser;

/// Refuses a value with a number in it that is not finite.
///
/// # Errors
/// That number, or why the value cannot be looked at.
pub(super) fn check(value: &impl Serialize) -> Result<(), String> {
    value.serialize(Finite).map_err(|refused| refused.0)
}

#[derive(Debug)]
struct Refused(String);

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Refused {}

impl ser::Error for Refused {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self(message.to_string())
    }
}

type Looked = Result<(), Refused>;

/// Goes through a value; both its own writer and that of everything compound.
#[derive(Debug, Clone, Copy)]
struct Finite;

macro_rules! fine {
    ($($name:ident($($type:ty),*);)*) => {
        $(fn $name(self $(, _: $type)*) -> Looked { Ok(()) })*
    };
}

macro_rules! begin {
    ($($name:ident($($type:ty),*) -> $kind:ident;)*) => {
        $(
            type $kind = Self;
            fn $name(self $(, _: $type)*) -> Result<Self, Refused> { Ok(self) }
        )*
    };
}

impl ser::Serializer for Finite {
    type Ok = ();
    type Error = Refused;

    fine! {
        serialize_bool(bool);
        serialize_i8(i8);
        serialize_i16(i16);
        serialize_i32(i32);
        serialize_i64(i64);
        serialize_i128(i128);
        serialize_u8(u8);
        serialize_u16(u16);
        serialize_u32(u32);
        serialize_u64(u64);
        serialize_u128(u128);
        serialize_char(char);
        serialize_str(&str);
        serialize_bytes(&[u8]);
        serialize_none();
        serialize_unit();
        serialize_unit_struct(&'static str);
        serialize_unit_variant(&'static str, u32, &'static str);
    }

    begin! {
        serialize_seq(Option<usize>) -> SerializeSeq;
        serialize_tuple(usize) -> SerializeTuple;
        serialize_tuple_struct(&'static str, usize) -> SerializeTupleStruct;
        serialize_tuple_variant(&'static str, u32, &'static str, usize) -> SerializeTupleVariant;
        serialize_map(Option<usize>) -> SerializeMap;
        serialize_struct(&'static str, usize) -> SerializeStruct;
        serialize_struct_variant(&'static str, u32, &'static str, usize) -> SerializeStructVariant;
    }

    fn serialize_f32(self, number: f32) -> Looked {
        self.serialize_f64(f64::from(number))
    }

    fn serialize_f64(self, number: f64) -> Looked {
        if number.is_finite() {
            return Ok(());
        }
        Err(Refused(format!(
            "{number} is a number that JSON has no form for"
        )))
    }

    fn serialize_some<T: Serialize + ?Sized>(self, value: &T) -> Looked {
        value.serialize(self)
    }

    fn serialize_newtype_struct<T: Serialize + ?Sized>(self, _: &'static str, v: &T) -> Looked {
        v.serialize(self)
    }

    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        _: &'static str,
        value: &T,
    ) -> Looked {
        value.serialize(self)
    }
}

macro_rules! compound {
    ($($kind:ident { $($name:ident($($key:ty)?);)* })*) => {
        $(impl ser::$kind for Finite {
            type Ok = ();
            type Error = Refused;
            $(fn $name<T: Serialize + ?Sized>(&mut self, $(_: $key,)? value: &T) -> Looked {
                value.serialize(*self)
            })*
            fn end(self) -> Looked { Ok(()) }
        })*
    };
}

compound! {
    SerializeSeq { serialize_element(); }
    SerializeTuple { serialize_element(); }
    SerializeTupleStruct { serialize_field(); }
    SerializeTupleVariant { serialize_field(); }
    SerializeMap { serialize_key(); serialize_value(); }
    SerializeStruct { serialize_field(&'static str); }
    SerializeStructVariant { serialize_field(&'static str); }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[derive(Serialize)]
    enum Any {
        Tuple(u8, f64),
        Struct { number: Option<f32> },
        New(Vec<f64>),
        Unit,
    }

    #[test]
    fn a_number_that_json_cannot_write_is_found_wherever_it_is() {
        for fine in [
            Any::Tuple(1, 1.5),
            Any::Struct { number: None },
            Any::New(vec![0.0]),
            Any::Unit,
        ] {
            assert_eq!(check(&BTreeMap::from([("key", fine)])), Ok(()));
        }
        for odd in [
            Any::Tuple(1, f64::NAN),
            Any::Struct {
                number: Some(f32::INFINITY),
            },
            Any::New(vec![0.0, f64::NEG_INFINITY]),
        ] {
            assert!(check(&BTreeMap::from([("key", odd)])).is_err());
        }
    }
}
