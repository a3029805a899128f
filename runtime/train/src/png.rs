//! Writing PNG files.

use image::codecs::png::{CompressionType, FilterType, PngEncoder};
use image::{ColorType, ImageEncoder};

/// The bytes of a PNG image. `pixels` holds `height` rows of `width` pixels of 1 (gray), 3 (RGB) or 4 (RGBA) bytes. Panics if their
/// number or the extents do not fit; an extent of 0 is not allowed by the format.
pub fn encode(width: usize, height: usize, channels: usize, pixels: &[u8]) -> Vec<u8> {
    assert_eq!(pixels.len(), width * height * channels, "compiler bug: size of an image");
    assert!(width > 0 && height > 0 && width < 1 << 31 && height < 1 << 31, "compiler bug: an image of {width} x {height}");
    let color = match channels {
        1 => ColorType::L8,
        3 => ColorType::Rgb8,
        4 => ColorType::Rgba8,
        _ => panic!("compiler bug: an image of {channels} channels"),
    };
    let mut out = Vec::new();
    let encoder = PngEncoder::new_with_quality(&mut out, CompressionType::Default, FilterType::Adaptive);
    encoder.write_image(pixels, width as u32, height as u32, color).expect("memory takes bytes");
    out
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Width, height, channels and pixels of a file.
    pub(crate) fn decode(bytes: &[u8]) -> (usize, usize, usize, Vec<u8>) {
        let image = image::load_from_memory(bytes).unwrap();
        let channels = image.color().channel_count() as usize;
        (image.width() as usize, image.height() as usize, channels, image.into_bytes())
    }

    #[test]
    fn images_decode_to_the_same_pixels() {
        for channels in [1, 3, 4] {
            let pixels: Vec<u8> = (0..5 * 7 * channels).map(|i| (i * i % 251) as u8).collect();
            assert_eq!(decode(&encode(5, 7, channels, &pixels)), (5, 7, channels, pixels));
        }
    }
}
