//! `images`: a folder of PNG and JPEG files of one size as `u8[N, H, W, C]`.

use crate::error::{Result, TrainError};
use image::{ColorType, DynamicImage};
use optc_abi::{DType, Tensor};
use std::path::{Path, PathBuf};

/// Where the images of a folder lie.
pub trait Place {
    /// The bytes of a file.
    ///
    /// # Errors
    /// It cannot be read.
    fn bytes(&self, file: &Path) -> Result<Vec<u8>>;
    /// What is in a folder, and whether it is a folder itself.
    ///
    /// # Errors
    /// It cannot be read.
    fn entries(&self, folder: &Path) -> Result<Vec<(PathBuf, bool)>>;
}

/// The file system.
pub struct Disk;

impl Place for Disk {
    fn bytes(&self, file: &Path) -> Result<Vec<u8>> {
        std::fs::read(file).map_err(|e| TrainError::read(file, e))
    }
    fn entries(&self, folder: &Path) -> Result<Vec<(PathBuf, bool)>> {
        let fail = |e| TrainError::read(folder, e);
        let paths = std::fs::read_dir(folder).map_err(fail)?.map(|e| e.map(|e| e.path()));
        paths.map(|path| path.map(|p| (p.clone(), p.is_dir())).map_err(fail)).collect()
    }
}

/// The images of a folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Images {
    /// `u8[N, H, W, C]`: C is 1 if all are gray and 3 otherwise; transparency is dropped and 16 bits a channel are reduced to 8.
    pub pixels: Tensor,
    /// Names of the subfolders, sorted; empty if the files lie in the folder itself.
    pub classes: Vec<String>,
    /// `i32[N]`: for each image the place of its subfolder in `classes`; 0 without subfolders.
    pub labels: Tensor,
}

/// Reads the `.png`, `.jpg` and `.jpeg` files of a folder, in the order of their names, or of its subfolders (to any depth), subfolder by subfolder.
/// Other files and hidden ones are skipped. `R0115` if a file cannot be decoded, differs in size from the first, or lies beside subfolders
/// with images; `R0105` if there is none.
pub fn read(folder: &Path) -> Result<Images> {
    read_in(&Disk, folder)
}

/// As [`read`], from this place.
///
/// # Errors
/// As [`read`].
pub fn read_in(place: &dyn Place, folder: &Path) -> Result<Images> {
    let (here, below) = list(place, folder)?;
    let mut classes = Vec::new();
    let mut files: Vec<(PathBuf, i32)> = Vec::new();
    for sub in below {
        let found = files_below(place, &sub)?;
        if !found.is_empty() {
            files.extend(found.into_iter().map(|f| (f, classes.len() as i32)));
            classes.push(sub.file_name().unwrap_or_default().to_string_lossy().into_owned());
        }
    }
    if let (Some(stray), true) = (here.first(), !files.is_empty()) {
        return Err(TrainError::new("R0115", "this image lies beside subfolders with images")
            .at(stray)
            .help("subfolders are classes: put every image into one"));
    }
    files.extend(here.into_iter().map(|f| (f, 0)));
    if files.is_empty() {
        return Err(TrainError::new("R0105", "the folder holds no .png or .jpg files").at(folder));
    }
    let decoded = files.iter().map(|(f, _)| decode(place, f)).collect::<Result<Vec<_>>>()?;
    let (width, height) = (decoded[0].width(), decoded[0].height());
    let gray = decoded.iter().all(|i| matches!(i.color(), ColorType::L8 | ColorType::La8 | ColorType::L16 | ColorType::La16));
    let channels = if gray { 1 } else { 3 };
    let size = width as usize * height as usize * channels;
    let mut pixels = Tensor::zeros(DType::U8, &[files.len(), height as usize, width as usize, channels]);
    for ((image, (file, _)), out) in decoded.into_iter().zip(&files).zip(pixels.bytes_mut().chunks_exact_mut(size)) {
        if (image.width(), image.height()) != (width, height) {
            let first = files[0].0.file_name().unwrap_or_default().to_string_lossy();
            let message = format!("this image is {} x {}, `{first}` is {width} x {height}", image.width(), image.height());
            return Err(TrainError::new("R0115", message).at(file).help("scale all images of the folder to one size"));
        }
        out.copy_from_slice(&if gray { image.into_luma8().into_raw() } else { image.into_rgb8().into_raw() });
    }
    let labels: Vec<i32> = files.iter().map(|(_, label)| *label).collect();
    Ok(Images { pixels, classes, labels: Tensor::from_slice(&[labels.len()], &labels) })
}

fn decode(place: &dyn Place, file: &Path) -> Result<DynamicImage> {
    let bytes = place.bytes(file)?;
    image::load_from_memory(&bytes).map_err(|e| TrainError::new("R0115", format!("the image cannot be decoded: {e}")).at(file))
}

/// Image files and subfolders of a folder, each sorted by name.
fn list(place: &dyn Place, folder: &Path) -> Result<(Vec<PathBuf>, Vec<PathBuf>)> {
    let (mut files, mut folders) = (Vec::new(), Vec::new());
    for (path, is_folder) in place.entries(folder)? {
        let hidden = path.file_name().is_some_and(|n| n.to_string_lossy().starts_with('.'));
        let extension = path.extension().map(|e| e.to_string_lossy().to_lowercase());
        if hidden {
            continue;
        } else if is_folder {
            folders.push(path);
        } else if matches!(extension.as_deref(), Some("png" | "jpg" | "jpeg")) {
            files.push(path);
        }
    }
    files.sort();
    folders.sort();
    Ok((files, folders))
}

fn files_below(place: &dyn Place, folder: &Path) -> Result<Vec<PathBuf>> {
    let (mut files, folders) = list(place, folder)?;
    for sub in folders {
        files.extend(files_below(place, &sub)?);
    }
    Ok(files)
}

/// The images of a folder of the disk and of its subfolders, as [`read`] finds them.
///
/// # Errors
/// A folder that cannot be read.
pub fn files(folder: &Path) -> Result<Vec<PathBuf>> {
    files_below(&Disk, folder)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(path: &Path, channels: usize, pixels: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        let width = pixels.len() / channels / 2;
        fs::write(path, crate::png::encode(width, 2, channels, pixels)).unwrap();
    }

    #[test]
    fn subfolders_are_classes_in_the_order_of_their_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        write(&at("dog/1.png"), 1, &[1, 2, 3, 4]);
        write(&at("cat/deep/2.PNG"), 1, &[5, 6, 7, 8]);
        write(&at("cat/10.png"), 1, &[9, 9, 9, 9]);
        fs::write(at("cat/notes.txt"), "").unwrap();
        fs::create_dir(at("empty")).unwrap();
        let found = read(dir.path()).unwrap();
        assert_eq!(found.classes, ["cat", "dog"]);
        assert_eq!(found.labels.as_slice::<i32>(), [0, 0, 1]);
        assert_eq!(found.pixels, Tensor::from_slice(&[3, 2, 2, 1], &[9u8, 9, 9, 9, 5, 6, 7, 8, 1, 2, 3, 4]));
        write(&at("stray.png"), 1, &[1, 2, 3, 4]);
        let e = read(dir.path()).unwrap_err();
        assert!(e.code == "R0115" && e.path.unwrap().ends_with("stray.png"));
    }

    #[test]
    fn one_colored_image_makes_all_colored_and_transparency_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a.png"), 1, &[7, 8]);
        write(&dir.path().join("b.png"), 4, &[1, 2, 3, 200, 4, 5, 6, 0]);
        let found = read(dir.path()).unwrap();
        assert_eq!(found.pixels, Tensor::from_slice(&[2, 2, 1, 3], &[7u8, 7, 7, 8, 8, 8, 1, 2, 3, 4, 5, 6]));
        assert!(found.classes.is_empty());
    }

    #[test]
    fn jpeg_files_are_decoded() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = Vec::new();
        let encoder = image::codecs::jpeg::JpegEncoder::new_with_quality(&mut bytes, 100);
        image::ImageEncoder::write_image(encoder, &[120; 64], 8, 8, ColorType::L8).unwrap();
        fs::write(dir.path().join("a.jpeg"), bytes).unwrap();
        let found = read(dir.path()).unwrap();
        assert_eq!(found.pixels.shape, [1, 8, 8, 1]);
        assert!(found.pixels.as_slice::<u8>().iter().all(|&p| p.abs_diff(120) <= 1));
    }

    #[test]
    fn what_does_not_fit_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read(dir.path()).unwrap_err().code, "R0105");
        assert_eq!(read(&dir.path().join("none")).unwrap_err().code, "R0101");
        write(&dir.path().join("a.png"), 1, &[1, 2, 3, 4]);
        write(&dir.path().join("b.png"), 1, &[1, 2]);
        let e = read(dir.path()).unwrap_err();
        assert!(e.code == "R0115" && e.message.contains("1 x 2, `a.png` is 2 x 2"), "{e}");
        fs::write(dir.path().join("b.png"), b"GIF89a").unwrap();
        let e = read(dir.path()).unwrap_err();
        assert!(e.code == "R0115" && e.path.unwrap().ends_with("b.png"));
    }
}
