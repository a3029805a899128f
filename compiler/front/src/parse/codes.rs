//! Codes of syntax errors; their pages are in `compiler/base/pages`.

use optc_base::Code;

/// Something else was expected here.
pub const UNEXPECTED: Code = Code("E0101");
/// A bracket without its partner.
pub const BRACKET: Code = Code("E0102");
/// A string that does not end, a wrong escape or interpolation.
pub const STRING: Code = Code("E0103");
/// Nested too deeply.
pub const NESTING: Code = Code("E0104");
/// `a < b < c`
pub const CHAINED: Code = Code("E0105");
/// `.5`, `1.`, `10abc`
pub const NUMBER: Code = Code("E0106");
/// `+=`, `**`, `&&`, `||`
pub const OPERATOR: Code = Code("E0107");
/// `=` where `<-` is meant.
pub const ASSIGN: Code = Code("E0108");
/// A reserved word as a name.
pub const RESERVED: Code = Code("E0109");
/// `return`
pub const RETURN: Code = Code("E0110");
/// A reduction whose operand cannot be one.
pub const REDUCTION: Code = Code("E0111");
/// No item starts with this word.
pub const ITEM: Code = Code("E0112");
/// A type is missing.
pub const TYPE: Code = Code("E0113");
/// `<-` inside an expression, or with a left side that cannot be updated.
pub const UPDATE: Code = Code("E0114");
/// Two statements on a line.
pub const SEPARATOR: Code = Code("E0115");
/// A character that is not in the language.
pub const CHARACTER: Code = Code("E0116");
