//! `wav`: sound as `f32[samples, channels]` between -1 and 1.

use crate::error::{Result, TrainError};
use hound::{SampleFormat, WavReader};
use optc_abi::Tensor;
use std::io::Cursor;
use std::path::Path;

/// A recording.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sound {
    /// `f32[samples, channels]`; integers of `b` bits are divided by `2^(b - 1)`.
    pub samples: Tensor,
    /// Samples per second.
    pub rate: u32,
}

/// Reads a wav file of 8 to 32 bits, integer or float. `R0123` if it is none or cut off, `R0105` if it is silent of samples.
pub fn read(path: &Path) -> Result<Sound> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    parse(&bytes).map_err(|e| e.at(path))
}

/// Reads the bytes of such a file.
pub fn parse(bytes: &[u8]) -> Result<Sound> {
    let bad = |e: hound::Error| TrainError::new("R0123", format!("not a wav file, or damaged: {e}")).help("export it as PCM");
    let mut reader = WavReader::new(Cursor::new(bytes)).map_err(bad)?;
    let spec = reader.spec();
    let values = match spec.sample_format {
        SampleFormat::Float => reader.samples::<f32>().collect::<std::result::Result<Vec<f32>, _>>(),
        SampleFormat::Int => {
            let scale = 1.0 / (1u64 << (spec.bits_per_sample.max(1) - 1)) as f32;
            reader.samples::<i32>().map(|s| s.map(|s| s as f32 * scale)).collect()
        }
    }
    .map_err(bad)?;
    let channels = spec.channels as usize;
    if values.is_empty() || !values.len().is_multiple_of(channels) {
        return Err(TrainError::new("R0105", "the file holds no samples"));
    }
    Ok(Sound { samples: Tensor::from_slice(&[values.len() / channels, channels], &values), rate: spec.sample_rate })
}

#[cfg(test)]
mod tests {
    use super::*;
    use hound::{WavSpec, WavWriter};

    fn file(bits: u16, format: SampleFormat, write: impl Fn(&mut WavWriter<&mut Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut out = Cursor::new(Vec::new());
        let mut writer =
            WavWriter::new(&mut out, WavSpec { channels: 2, sample_rate: 8000, bits_per_sample: bits, sample_format: format }).unwrap();
        write(&mut writer);
        writer.finalize().unwrap();
        out.into_inner()
    }

    #[test]
    fn every_width_gives_numbers_between_minus_one_and_one() {
        for bits in [8u16, 16, 24, 32] {
            let half = 1i32 << (bits - 2);
            let bytes = file(bits, SampleFormat::Int, |w| {
                for s in [half, -half, 0, -half - half, half, 0] {
                    w.write_sample(s).unwrap();
                }
            });
            let sound = parse(&bytes).unwrap();
            assert_eq!((sound.rate, &sound.samples.shape[..]), (8000, &[3, 2][..]));
            assert_eq!(sound.samples.as_slice::<f32>(), [0.5, -0.5, 0.0, -1.0, 0.5, 0.0], "{bits} bits");
        }
        let bytes = file(32, SampleFormat::Float, |w| [0.25f32, -2.0].into_iter().for_each(|s| w.write_sample(s).unwrap()));
        assert_eq!(parse(&bytes).unwrap().samples.as_slice::<f32>(), [0.25, -2.0]);
    }

    #[test]
    fn damage_is_found_and_never_panics() {
        let bytes = file(16, SampleFormat::Int, |w| (0..8).for_each(|s| w.write_sample(s).unwrap()));
        assert_eq!(parse(b"OggS....").unwrap_err().code, "R0123");
        assert_eq!(parse(&bytes[..bytes.len() - 4]).unwrap_err().code, "R0123");
        assert_eq!(parse(&file(16, SampleFormat::Int, |_| ())).unwrap_err().code, "R0105");
        for n in 0..bytes.len() {
            let _ = parse(&bytes[..n]);
            let mut flipped = bytes.clone();
            flipped[n] ^= 0xA5;
            let _ = parse(&flipped);
        }
    }
}
