//! A plan's code for a GPU as bytes, in which it is kept on disk: numbers of 8 bytes, texts and lists behind their lengths.

use optc_abi::device::{Argument, DeviceCode, KernelEntry, Launch, Work};

/// The bytes of code.
pub(crate) fn encode(code: &DeviceCode) -> Vec<u8> {
    let mut out = Vec::new();
    text(&mut out, &code.text);
    list(&mut out, &code.kernels, |out, k| {
        text(out, &k.one);
        list(out, k.many.as_slice(), |out, name| text(out, name));
        [i64::from(k.threads), k.units, k.pieces].into_iter().for_each(|n| number(out, n));
    });
    for works in [&code.gemms, &code.convs, &code.libs] {
        list(&mut out, works, |out, work| list(out, work.as_slice(), self::work));
    }
    out
}

/// The code that bytes are, if they are some.
pub(crate) fn decode(bytes: &[u8]) -> Option<DeviceCode> {
    let mut from = Reader(bytes);
    let text = from.text()?;
    let kernels = from.list(|r| {
        let (one, many) = (r.text()?, r.list(Reader::text)?.pop());
        Some(KernelEntry { one, many, threads: r.small()?, units: r.number()?, pieces: r.number()? })
    })?;
    let mut works = || from.list(|r| Some(r.list(Reader::work)?.pop()));
    let (gemms, convs, libs) = (works()?, works()?, works()?);
    from.0.is_empty().then_some(DeviceCode { text, kernels, gemms, convs, libs })
}

fn number(out: &mut Vec<u8>, n: i64) {
    out.extend(n.to_le_bytes());
}

fn text(out: &mut Vec<u8>, text: &str) {
    number(out, text.len() as i64);
    out.extend(text.as_bytes());
}

fn list<T>(out: &mut Vec<u8>, items: &[T], mut each: impl FnMut(&mut Vec<u8>, &T)) {
    number(out, items.len() as i64);
    items.iter().for_each(|item| each(out, item));
}

fn work(out: &mut Vec<u8>, work: &Work) {
    number(out, work.scratch as i64);
    list(out, &work.launches, |out, l| {
        text(out, &l.entry);
        l.blocks.iter().chain([&l.threads, &l.shared]).for_each(|&n| number(out, i64::from(n)));
        list(out, &l.arguments, |out, argument| {
            let (kind, value) = match *argument {
                Argument::Buffer(n) => (0, n as i64),
                Argument::Scratch(n) => (1, n as i64),
                Argument::Number(n) => (2, n),
                Argument::Status => (3, 0),
            };
            number(out, kind);
            number(out, value);
        });
    });
}

/// The bytes that are left.
struct Reader<'b>(&'b [u8]);

impl<'b> Reader<'b> {
    fn bytes(&mut self, n: usize) -> Option<&'b [u8]> {
        let (head, rest) = self.0.split_at_checked(n)?;
        self.0 = rest;
        Some(head)
    }
    fn number(&mut self) -> Option<i64> {
        Some(i64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }
    fn small<T: TryFrom<i64>>(&mut self) -> Option<T> {
        self.number()?.try_into().ok()
    }
    fn text(&mut self) -> Option<String> {
        let n = self.small()?;
        String::from_utf8(self.bytes(n)?.to_vec()).ok()
    }
    fn list<T>(&mut self, mut each: impl FnMut(&mut Self) -> Option<T>) -> Option<Vec<T>> {
        let n: usize = self.small()?;
        // Every item has bytes of its own; a length beyond them is none.
        if n > self.0.len() {
            return None;
        }
        (0..n).map(|_| each(self)).collect()
    }
    fn work(&mut self) -> Option<Work> {
        let scratch = self.small()?;
        let launches = self.list(|r| {
            let entry = r.text()?;
            let blocks = [r.small()?, r.small()?, r.small()?];
            let (threads, shared) = (r.small()?, r.small()?);
            let arguments = r.list(|r| match (r.number()?, r.number()?) {
                (0, n) => n.try_into().ok().map(Argument::Buffer),
                (1, n) => n.try_into().ok().map(Argument::Scratch),
                (2, n) => Some(Argument::Number(n)),
                (3, _) => Some(Argument::Status),
                _ => None,
            })?;
            Some(Launch { entry, blocks, threads, shared, arguments })
        })?;
        Some(Work { launches, scratch })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_comes_back_whole_or_not_at_all() {
        let arguments = vec![Argument::Buffer(2), Argument::Scratch(256), Argument::Number(-7), Argument::Status];
        let launch = Launch { entry: "product_0".into(), blocks: [3, 2, 1], threads: 256, shared: 70_000, arguments };
        let kernel = KernelEntry { one: "kernel_0".into(), many: Some("kernel_0_many".into()), threads: 32, units: 8, pieces: 1 };
        let code = DeviceCode {
            text: "// ptx\n.version 8.0 ü".into(),
            kernels: vec![kernel.clone(), KernelEntry { many: None, ..kernel }],
            gemms: vec![None, Some(Work { launches: vec![launch.clone(), launch], scratch: 4096 })],
            convs: Vec::new(),
            libs: vec![Some(Work::default()), None],
        };
        let bytes = encode(&code);
        assert_eq!(decode(&bytes), Some(code));
        assert!((0..bytes.len()).all(|n| decode(&bytes[..n]).is_none()));
        assert_eq!(decode(&[&bytes[..], &[0]].concat()), None);
        assert_eq!(decode(&[0xff; 64]), None);
    }
}
