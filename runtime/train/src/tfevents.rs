//! TensorBoard event files: TFRecord framing around small protocol-buffer messages.
//!
//! A record is its length (u64), the masked CRC-32C of the length, the data, the masked CRC-32C of the data, all little-endian
//! (tensorflow/core/lib/io/record_writer.h). The data are an `Event` (tensorflow/core/util/event.proto): wall_time = 1 (double),
//! step = 2 (int64), file_version = 3 (string), summary = 5, which holds values (1) with tag = 1 (string) and simple_value = 2 (float).

use crate::error::{Result, TrainError};

/// CRC-32C (Castagnoli, reflected polynomial 0x82F63B78), by table.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = {
        let mut table = [0; 256];
        let mut i = 0;
        while i < 256 {
            let mut c = i as u32;
            let mut k = 0;
            while k < 8 {
                c = if c & 1 != 0 { (c >> 1) ^ 0x82F6_3B78 } else { c >> 1 };
                k += 1;
            }
            table[i] = c;
            i += 1;
        }
        table
    };
    !bytes.iter().fold(!0, |c, &b| TABLE[((c ^ u32::from(b)) & 0xFF) as usize] ^ (c >> 8))
}

fn masked(bytes: &[u8]) -> u32 {
    crc32c(bytes).rotate_right(15).wrapping_add(0xA282_EAD8)
}

fn frame(data: &[u8]) -> Vec<u8> {
    let length = (data.len() as u64).to_le_bytes();
    [&length[..], &masked(&length).to_le_bytes(), data, &masked(data).to_le_bytes()].concat()
}

fn varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

fn bytes_field(out: &mut Vec<u8>, number: u8, bytes: &[u8]) {
    out.push(number << 3 | 2);
    varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

fn event(wall_time: f64, step: u64) -> Vec<u8> {
    let mut out = vec![1 << 3 | 1];
    out.extend_from_slice(&wall_time.to_le_bytes());
    out.push(2 << 3);
    varint(&mut out, step);
    out
}

/// The record every file starts with.
pub fn version_record(wall_time: f64) -> Vec<u8> {
    let mut e = event(wall_time, 0);
    bytes_field(&mut e, 3, b"brain.Event:2");
    frame(&e)
}

/// A record with the scalars of a step.
pub fn scalars_record(wall_time: f64, step: u64, values: &[(&str, f64)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, v) in values {
        let mut value = Vec::new();
        bytes_field(&mut value, 1, tag.as_bytes());
        value.push(2 << 3 | 5);
        value.extend_from_slice(&(*v as f32).to_le_bytes());
        bytes_field(&mut summary, 1, &value);
    }
    let mut e = event(wall_time, step);
    bytes_field(&mut e, 5, &summary);
    frame(&e)
}

/// One event of a file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Event {
    /// Seconds since 1970.
    pub wall_time: f64,
    /// The step.
    pub step: u64,
    /// Present in the first event: the format's version.
    pub file_version: Option<String>,
    /// Recorded values by tag.
    pub scalars: Vec<(String, f32)>,
}

/// The events of a file. `R0118` if a checksum is wrong or the file is cut off.
pub fn decode(bytes: &[u8]) -> Result<Vec<Event>> {
    let mut rest = bytes;
    let mut events = Vec::new();
    while !rest.is_empty() {
        let (event, after) = record(rest).ok_or_else(|| {
            let at = bytes.len() - rest.len();
            TrainError::new("R0118", format!("the event file is damaged at byte {at}")).row(events.len() as u64 + 1)
        })?;
        events.push(event);
        rest = after;
    }
    Ok(events)
}

/// How many bytes hold whole, undamaged records up to the last whose step is at most `step`.
pub fn keep(bytes: &[u8], step: u64) -> usize {
    let mut rest = bytes;
    while let Some((event, after)) = record(rest) {
        if event.step > step {
            break;
        }
        rest = after;
    }
    bytes.len() - rest.len()
}

fn record(bytes: &[u8]) -> Option<(Event, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    if masked(length) != u32::from_le_bytes(*sum) {
        return None;
    }
    let (data, rest) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
    let (sum, rest) = rest.split_first_chunk::<4>()?;
    if masked(data) != u32::from_le_bytes(*sum) {
        return None;
    }
    let mut event = Event::default();
    for (number, field) in fields(data)? {
        match (number, field) {
            (1, Field::Fixed64(v)) => event.wall_time = f64::from_bits(v),
            (2, Field::Varint(v)) => event.step = v,
            (3, Field::Bytes(b)) => event.file_version = Some(String::from_utf8_lossy(b).into_owned()),
            (5, Field::Bytes(summary)) => {
                for (number, value) in fields(summary)? {
                    let (1, Field::Bytes(value)) = (number, value) else { continue };
                    let mut scalar = (String::new(), None);
                    for field in fields(value)? {
                        match field {
                            (1, Field::Bytes(b)) => scalar.0 = String::from_utf8_lossy(b).into_owned(),
                            (2, Field::Fixed32(v)) => scalar.1 = Some(f32::from_bits(v)),
                            _ => {}
                        }
                    }
                    if let (tag, Some(v)) = scalar {
                        event.scalars.push((tag, v));
                    }
                }
            }
            _ => {}
        }
    }
    Some((event, rest))
}

enum Field<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

fn fields(mut bytes: &[u8]) -> Option<Vec<(u64, Field<'_>)>> {
    fn read_varint(bytes: &mut &[u8]) -> Option<u64> {
        let mut v = 0u64;
        for shift in (0..64).step_by(7) {
            let (&b, rest) = bytes.split_first()?;
            *bytes = rest;
            v |= u64::from(b & 0x7F) << shift;
            if b < 0x80 {
                return Some(v);
            }
        }
        None
    }
    let mut out = Vec::new();
    while !bytes.is_empty() {
        let key = read_varint(&mut bytes)?;
        let field = match key & 7 {
            0 => Field::Varint(read_varint(&mut bytes)?),
            1 => {
                let (v, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Field::Fixed64(u64::from_le_bytes(*v))
            }
            2 => {
                let n = usize::try_from(read_varint(&mut bytes)?).ok()?;
                let (v, rest) = bytes.split_at_checked(n)?;
                bytes = rest;
                Field::Bytes(v)
            }
            5 => {
                let (v, rest) = bytes.split_first_chunk()?;
                bytes = rest;
                Field::Fixed32(u32::from_le_bytes(*v))
            }
            _ => return None,
        };
        out.push((key >> 3, field));
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_rfc_3720() {
        assert_eq!(crc32c(b"123456789"), 0xE306_9283);
        assert_eq!(crc32c(&[0; 32]), 0x8A91_36AA);
        assert_eq!(crc32c(&[0xFF; 32]), 0x62A8_AB43);
    }

    #[test]
    fn a_record_has_the_documented_bytes() {
        // wall_time 1.0, step 300, one value a = 0.5; checked against the wire format by hand.
        let r = scalars_record(1.0, 300, &[("a", 0.5)]);
        let data = [9, 0, 0, 0, 0, 0, 0, 0xF0, 0x3F, 0x10, 0xAC, 0x02, 0x2A, 10, 0x0A, 8, 0x0A, 1, b'a', 0x15, 0, 0, 0, 0x3F];
        assert_eq!(&r[..8], &(data.len() as u64).to_le_bytes());
        assert_eq!(&r[12..r.len() - 4], &data);
    }

    #[test]
    fn files_decode_and_damage_is_found() {
        let file =
            [version_record(1.5), scalars_record(2.0, 1, &[("loss", 0.5), ("acc", 1.0)]), scalars_record(2.5, 200, &[("loss", f64::NAN)])]
                .concat();
        let events = decode(&file).unwrap();
        assert_eq!(events[0].file_version.as_deref(), Some("brain.Event:2"));
        assert_eq!((events[1].step, events[1].wall_time, &events[1].scalars), (1, 2.0, &vec![("loss".into(), 0.5), ("acc".into(), 1.0)]));
        assert!(events[2].step == 200 && events[2].scalars[0].1.is_nan());
        assert_eq!(keep(&file, 199), file.len() - scalars_record(2.5, 200, &[("loss", f64::NAN)]).len());
        for n in 0..file.len() {
            let mut flipped = file.clone();
            flipped[n] ^= 0x41;
            assert_eq!(decode(&flipped).unwrap_err().code, "R0118");
            assert!(keep(&file[..n], u64::MAX) <= n);
        }
    }
}
