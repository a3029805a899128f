//! Words of PTX.

use super::Error;

/// One word.
#[derive(Clone, Debug, PartialEq)]
pub enum Token {
    /// A name, an opcode with its modifiers, a directive, a register; dots and `::` included.
    Word(String),
    /// A whole number, as the 64 bits it stands for.
    Int(u64),
    /// Bits of a number written as `0f…`.
    Single(u32),
    /// A number written as `0d…` or with a point.
    Double(f64),
    /// Text between quotes.
    Text(String),
    /// Anything else.
    Sign(char),
}

/// The words of a text, each with its line.
pub fn lex(text: &str) -> Result<Vec<(Token, u32)>, Error> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let (mut at, mut line) = (0, 1u32);
    let word_start = |c: u8| c.is_ascii_alphabetic() || matches!(c, b'_' | b'$' | b'%' | b'.');
    let word_part = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'_' | b'$' | b'.');
    while at < bytes.len() {
        let c = bytes[at];
        match c {
            b'\n' => {
                line += 1;
                at += 1;
            }
            0 => break,
            c if c.is_ascii_whitespace() => at += 1,
            b'/' if bytes.get(at + 1) == Some(&b'/') => {
                while at < bytes.len() && bytes[at] != b'\n' {
                    at += 1;
                }
            }
            b'/' if bytes.get(at + 1) == Some(&b'*') => {
                let end = text[at + 2..].find("*/").ok_or_else(|| Error::new(line, "a comment that does not end"))?;
                line += text[at..at + 2 + end].matches('\n').count() as u32;
                at += end + 4;
            }
            b'"' => {
                let end = text[at + 1..].find('"').ok_or_else(|| Error::new(line, "a text that does not end"))?;
                tokens.push((Token::Text(text[at + 1..at + 1 + end].to_string()), line));
                at += end + 2;
            }
            c if c.is_ascii_digit() => {
                let (token, length) = number(&text[at..], line)?;
                tokens.push((token, line));
                at += length;
            }
            c if word_start(c) => {
                let from = at;
                at += 1;
                while at < bytes.len() && (word_part(bytes[at]) || (bytes[at] == b':' && bytes.get(at + 1) == Some(&b':'))) {
                    at += if bytes[at] == b':' { 2 } else { 1 };
                }
                tokens.push((Token::Word(text[from..at].to_string()), line));
            }
            c if c.is_ascii() => {
                tokens.push((Token::Sign(c as char), line));
                at += 1;
            }
            _ => return Err(Error::new(line, "a character that is not ASCII")),
        }
    }
    Ok(tokens)
}

fn number(text: &str, line: u32) -> Result<(Token, usize), Error> {
    let bytes = text.as_bytes();
    let digits = |from: usize, ok: fn(&u8) -> bool| from + bytes[from..].iter().take_while(|c| ok(c)).count();
    let bad = || Error::new(line, "a number that cannot be read");
    if bytes[0] == b'0' && bytes.len() > 1 {
        let radix = match bytes[1] {
            b'f' | b'F' | b'd' | b'D' => {
                let end = digits(2, u8::is_ascii_hexdigit);
                let bits = u64::from_str_radix(&text[2..end], 16).map_err(|_| bad())?;
                return match (bytes[1] | 32, end - 2) {
                    (b'f', 8) => Ok((Token::Single(bits as u32), end)),
                    (b'd', 16) => Ok((Token::Double(f64::from_bits(bits)), end)),
                    _ => Err(bad()),
                };
            }
            b'x' | b'X' => 16,
            b'b' | b'B' => 2,
            _ => 10,
        };
        if radix != 10 {
            let end = digits(2, u8::is_ascii_hexdigit);
            let value = u64::from_str_radix(&text[2..end], radix).map_err(|_| bad())?;
            return Ok((Token::Int(value), end + usize::from(bytes.get(end) == Some(&b'U'))));
        }
    }
    let mut end = digits(0, u8::is_ascii_digit);
    let real = bytes.get(end) == Some(&b'.') || matches!(bytes.get(end), Some(b'e' | b'E'));
    if real {
        if bytes.get(end) == Some(&b'.') {
            end = digits(end + 1, u8::is_ascii_digit);
        }
        if matches!(bytes.get(end), Some(b'e' | b'E')) {
            end += 1 + usize::from(matches!(bytes.get(end + 1), Some(b'+' | b'-')));
            end = digits(end, u8::is_ascii_digit);
        }
        return Ok((Token::Double(text[..end].parse().map_err(|_| bad())?), end));
    }
    let radix = if end > 1 && bytes[0] == b'0' { 8 } else { 10 };
    let value = u64::from_str_radix(&text[..end], radix).map_err(|_| bad())?;
    Ok((Token::Int(value), end + usize::from(bytes.get(end) == Some(&b'U'))))
}
