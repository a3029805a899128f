//! `csv`: a file of numbers without a header, as `f32[rows, columns]`.

use crate::error::{Result, TrainError};
use optc_abi::Tensor;
use std::path::Path;

/// Reads a file of comma-separated numbers without a header line. Blanks around numbers and empty lines are allowed; `nan` and `inf`
/// are numbers. A ragged row, an empty field or anything else is an error that names file, row (the line) and column.
pub fn read(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    parse(&bytes).map_err(|e| e.at(path))
}

/// As [`read`], in double precision: `f64[rows, columns]`.
pub fn read_wide(path: &Path) -> Result<Tensor> {
    let bytes = std::fs::read(path).map_err(|e| TrainError::read(path, e))?;
    let (shape, values) = numbers::<f64>(&bytes).map_err(|e| e.at(path))?;
    Ok(Tensor::from_slice(&shape, &values))
}

/// Reads the bytes of such a file.
pub fn parse(bytes: &[u8]) -> Result<Tensor> {
    let (shape, values) = numbers::<f32>(bytes)?;
    Ok(Tensor::from_slice(&shape, &values))
}

/// Rows and columns, and the numbers row by row.
fn numbers<T: std::str::FromStr>(bytes: &[u8]) -> Result<([usize; 2], Vec<T>)> {
    let bytes = bytes.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(bytes);
    let mut reader = csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(bytes);
    let mut record = csv::ByteRecord::new();
    let mut values: Vec<T> = Vec::new();
    let (mut rows, mut columns) = (0usize, 0usize);
    loop {
        match reader.read_byte_record(&mut record) {
            Ok(true) => {}
            Ok(false) => break,
            Err(e) => return Err(TrainError::new("R0104", format!("malformed csv: {e}")).row(rows as u64 + 1)),
        }
        let line = record.position().map_or(rows as u64 + 1, |p| {
            // The position is that of the empty lines skipped before the record.
            let skipped = bytes[p.byte() as usize..].iter().take_while(|b| matches!(b, b'\r' | b'\n'));
            p.line() + skipped.filter(|&&b| b == b'\n').count() as u64
        });
        // A line of blanks only is trimmed to one empty field.
        if record.len() == 1 && record[0].is_empty() {
            continue;
        }
        if rows == 0 {
            columns = record.len();
        } else if record.len() != columns {
            return Err(TrainError::new("R0103", format!("{} columns where the first row has {columns}", record.len()))
                .row(line)
                .help("every row needs the same number of comma-separated numbers"));
        }
        for (j, field) in record.iter().enumerate() {
            values.push(number(field).ok_or_else(|| not_a_number(field, rows == 0).row(line).column(j as u64 + 1))?);
        }
        rows += 1;
    }
    if rows == 0 {
        return Err(TrainError::new("R0105", "the file holds no rows"));
    }
    Ok(([rows, columns], values))
}

fn number<T: std::str::FromStr>(field: &[u8]) -> Option<T> {
    std::str::from_utf8(field).ok()?.parse().ok()
}

fn not_a_number(field: &[u8], first: bool) -> TrainError {
    if field.is_empty() {
        return TrainError::new("R0104", "an empty field where a number is expected").help("write `nan` where a value is missing");
    }
    let text: String = String::from_utf8_lossy(field).chars().take(40).collect();
    let error = TrainError::new("R0104", format!("`{text}` is not a number"));
    if first {
        error.help("csv files have no header line: remove it")
    } else if text.contains(';') || text.contains('\t') {
        error.help("separate the numbers by commas")
    } else {
        error.help("csv files hold numbers only; encode words as numbers first")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fails(text: &[u8]) -> (&'static str, Option<u64>, Option<u64>) {
        let e = parse(text).unwrap_err();
        (e.code, e.row, e.column)
    }

    #[test]
    fn numbers_become_a_matrix() {
        let t = parse(b"\xEF\xBB\xBF1,2.5,-3e2\r\n\n 4 ,nan, inf\n").unwrap();
        assert_eq!(t.shape, [2, 3]);
        let v = t.as_slice::<f32>();
        assert_eq!((v[1], v[2], v[3], v[5]), (2.5, -300.0, 4.0, f32::INFINITY));
        assert!(v[4].is_nan());
        assert_eq!(parse(b"7").unwrap().shape, [1, 1]);
    }

    #[test]
    fn errors_name_row_and_column() {
        assert_eq!(fails(b"1,2\n\n3\n"), ("R0103", Some(3), None));
        assert_eq!(fails(b"1,2\n3,x\n"), ("R0104", Some(2), Some(2)));
        assert_eq!(fails(b"1,\n"), ("R0104", Some(1), Some(2)));
        assert_eq!(fails(b"\xff\xfe,1"), ("R0104", Some(1), Some(1)));
        assert_eq!(fails(b"\n \n"), ("R0105", None, None));
        assert!(parse(b"a,b\n1,2").unwrap_err().help.unwrap().contains("header"));
        assert!(parse(b"1,2\n3;4,2").unwrap_err().help.unwrap().contains("commas"));
    }

    #[test]
    fn no_prefix_of_a_file_panics() {
        let text = b"1.5,2\n\"3\",4e-3\n5,\"6\n";
        for n in 0..text.len() {
            let _ = parse(&text[..n]);
        }
    }
}
