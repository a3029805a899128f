//! Writing PNG files (<https://www.w3.org/TR/png-3/>): 8 bits a channel, one filter chosen per row.

use flate2::{Compression, Crc, write::ZlibEncoder};
use std::io::Write;

/// The bytes of a PNG image. `pixels` holds `height` rows of `width` pixels of 1 (gray), 3 (RGB) or 4 (RGBA) bytes. Panics if their
/// number or the extents do not fit; an extent of 0 is not allowed by the format.
pub fn encode(width: usize, height: usize, channels: usize, pixels: &[u8]) -> Vec<u8> {
    assert_eq!(pixels.len(), width * height * channels, "compiler bug: size of an image");
    assert!(width > 0 && height > 0 && width < 1 << 31 && height < 1 << 31, "compiler bug: an image of {width} x {height}");
    let color = match channels {
        1 => 0,
        3 => 2,
        4 => 6,
        _ => panic!("compiler bug: an image of {channels} channels"),
    };
    let mut out = b"\x89PNG\r\n\x1a\n".to_vec();
    let mut header = Vec::new();
    header.extend_from_slice(&(width as u32).to_be_bytes());
    header.extend_from_slice(&(height as u32).to_be_bytes());
    header.extend_from_slice(&[8, color, 0, 0, 0]);
    chunk(&mut out, b"IHDR", &header);
    let stride = width * channels;
    let mut zlib = ZlibEncoder::new(Vec::new(), Compression::new(6));
    let mut previous = vec![0; stride];
    for row in pixels.chunks_exact(stride) {
        let filtered = [filter(row, &previous, channels, 0), filter(row, &previous, channels, 1), filter(row, &previous, channels, 2)];
        // The usual heuristic: the filter with the least sum of absolute differences.
        let cost = |f: &Vec<u8>| f.iter().map(|&b| u64::from((b as i8).unsigned_abs())).sum::<u64>();
        let (kind, best) = filtered.iter().enumerate().min_by_key(|(_, f)| cost(f)).expect("there are three filters");
        zlib.write_all(&[kind as u8]).and_then(|()| zlib.write_all(best)).expect("memory takes bytes");
        previous.copy_from_slice(row);
    }
    chunk(&mut out, b"IDAT", &zlib.finish().expect("memory takes bytes"));
    chunk(&mut out, b"IEND", &[]);
    out
}

/// Filter 0 none, 1 the difference from the left, 2 from above.
fn filter(row: &[u8], above: &[u8], channels: usize, kind: u8) -> Vec<u8> {
    let left = |i: usize| if i < channels { 0 } else { row[i - channels] };
    let predicted = |i: usize| match kind {
        0 => 0,
        1 => left(i),
        _ => above[i],
    };
    (0..row.len()).map(|i| row[i].wrapping_sub(predicted(i))).collect()
}

fn chunk(out: &mut Vec<u8>, name: &[u8; 4], data: &[u8]) {
    out.extend_from_slice(&(data.len() as u32).to_be_bytes());
    let start = out.len();
    out.extend_from_slice(name);
    out.extend_from_slice(data);
    let mut crc = Crc::new();
    crc.update(&out[start..]);
    out.extend_from_slice(&crc.sum().to_be_bytes());
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::io::Read;

    /// Width, height, channels and pixels of a file written by [`encode`].
    pub(crate) fn decode(bytes: &[u8]) -> (usize, usize, usize, Vec<u8>) {
        let mut rest = bytes.strip_prefix(b"\x89PNG\r\n\x1a\n").unwrap();
        let (mut header, mut data) = (Vec::new(), Vec::new());
        while !rest.is_empty() {
            let n = u32::from_be_bytes(*rest.first_chunk().unwrap()) as usize;
            let mut crc = Crc::new();
            crc.update(&rest[4..8 + n]);
            assert_eq!(crc.sum().to_be_bytes(), rest[8 + n..12 + n]);
            match &rest[4..8] {
                b"IHDR" => header = rest[8..8 + n].to_vec(),
                b"IDAT" => data.extend(&rest[8..8 + n]),
                _ => {}
            }
            rest = &rest[12 + n..];
        }
        let extent = |at: usize| u32::from_be_bytes(*header[at..].first_chunk().unwrap()) as usize;
        let (w, h, c) = (extent(0), extent(4), [1, 0, 3, 0, 0, 0, 4][header[9] as usize]);
        let mut raw = Vec::new();
        flate2::read::ZlibDecoder::new(&data[..]).read_to_end(&mut raw).unwrap();
        let mut pixels = Vec::new();
        for row in raw.chunks_exact(1 + w * c) {
            let at = pixels.len();
            for i in 0..w * c {
                let predicted = match row[0] {
                    0 => 0,
                    1 if i < c => 0,
                    1 => pixels[at + i - c],
                    _ if at == 0 => 0,
                    _ => pixels[at + i - w * c],
                };
                pixels.push(row[1 + i].wrapping_add(predicted));
            }
        }
        (w, h, c, pixels)
    }

    #[test]
    fn images_decode_to_the_same_pixels() {
        for channels in [1, 3, 4] {
            let pixels: Vec<u8> = (0..5 * 7 * channels).map(|i| (i * i % 251) as u8).collect();
            assert_eq!(decode(&encode(5, 7, channels, &pixels)), (5, 7, channels, pixels));
        }
    }
}
