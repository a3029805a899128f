//! The scalar table: one row per scalar operation.

/// The element types a scalar operation accepts and gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Class {
    /// Float operands of one type, result of that type.
    Float,
    /// Float or integer operands of one type, result of that type.
    Number,
    /// Integer (or, for `and or xor not`, bool) operands of one type, result of that type.
    Bits,
    /// Operands of one type (any), result `bool`.
    Compare,
    /// Float operand, result `bool`.
    Test,
    /// A bool and two operands of one type (any), result of that type.
    Select,
}

/// One row of the table.
#[derive(Clone, Copy, Debug)]
pub struct Row {
    /// The operation.
    pub op: ScalarOp,
    /// Its name in every text form.
    pub name: &'static str,
    /// Number of operands.
    pub arity: u8,
    /// Types.
    pub class: Class,
    /// Largest error of a back end's f32 result, in units in the last place; 0 is correctly rounded or exact.
    pub ulp: f32,
    /// Relative cost of one element (an addition is 1).
    pub cost: u16,
}

macro_rules! table {
    ($($(#[$doc:meta])* $op:ident $name:literal $arity:literal $class:ident $ulp:literal $cost:literal;)*) => {
        /// A scalar operation; its meaning on f64 and i64 stands in [`crate::eval`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum ScalarOp { $($(#[$doc])* $op,)* }
        /// All rows, in the order of [`ScalarOp`].
        pub const TABLE: &[Row] = &[$(Row { op: ScalarOp::$op, name: $name, arity: $arity, class: Class::$class, ulp: $ulp, cost: $cost },)*];
    };
}

table! {
    /// x + y
    Add "add" 2 Number 0.0 1;
    /// x - y
    Sub "sub" 2 Number 0.0 1;
    /// x * y
    Mul "mul" 2 Number 0.0 1;
    /// x / y, floats only; integers are converted first or use [`ScalarOp::FloorDiv`].
    Div "div" 2 Float 0.0 6;
    /// floor(x / y); an integer division by zero gives 0.
    FloorDiv "floor_div" 2 Number 0.0 8;
    /// x - y * floor(x / y), sign of the divisor; an integer remainder by zero gives 0.
    Rem "rem" 2 Number 0.0 10;
    /// The smaller; NaN if either is NaN; -0 < +0.
    Min "min" 2 Number 0.0 1;
    /// The larger; NaN if either is NaN; -0 < +0.
    Max "max" 2 Number 0.0 1;
    /// x to the power y (IEEE 754 `pow`).
    Pow "pow" 2 Float 4.0 40;
    /// Angle of the point (second operand, first operand).
    Atan2 "atan2" 2 Float 4.0 40;
    /// -x
    Neg "neg" 1 Number 0.0 1;
    /// |x|
    Abs "abs" 1 Number 0.0 1;
    /// -1, 0 or 1; keeps zeros and NaN.
    Sign "sign" 1 Number 0.0 2;
    /// Toward minus infinity.
    Floor "floor" 1 Float 0.0 1;
    /// Toward plus infinity.
    Ceil "ceil" 1 Float 0.0 1;
    /// To the nearest integer, ties to even.
    Round "round" 1 Float 0.0 1;
    /// Toward zero.
    Trunc "trunc" 1 Float 0.0 1;
    /// Square root, correctly rounded.
    Sqrt "sqrt" 1 Float 0.0 6;
    /// 1 / sqrt(x).
    Rsqrt "rsqrt" 1 Float 1.5 12;
    /// Cube root.
    Cbrt "cbrt" 1 Float 2.0 30;
    /// e^x
    Exp "exp" 1 Float 2.0 12;
    /// 2^x
    Exp2 "exp2" 1 Float 2.0 12;
    /// e^x - 1
    Expm1 "expm1" 1 Float 3.0 20;
    /// Natural logarithm.
    Log "log" 1 Float 2.0 14;
    /// log(1 + x)
    Log1p "log1p" 1 Float 3.0 20;
    /// Logarithm to base 2.
    Log2 "log2" 1 Float 2.0 14;
    /// Sine, radians.
    Sin "sin" 1 Float 2.0 20;
    /// Cosine, radians.
    Cos "cos" 1 Float 2.0 20;
    /// Tangent, radians.
    Tan "tan" 1 Float 4.0 30;
    /// Arc sine.
    Asin "asin" 1 Float 4.0 30;
    /// Arc cosine.
    Acos "acos" 1 Float 4.0 30;
    /// Arc tangent.
    Atan "atan" 1 Float 4.0 30;
    /// Hyperbolic sine.
    Sinh "sinh" 1 Float 4.0 25;
    /// Hyperbolic cosine.
    Cosh "cosh" 1 Float 4.0 25;
    /// Hyperbolic tangent.
    Tanh "tanh" 1 Float 3.0 20;
    /// Inverse hyperbolic sine.
    Asinh "asinh" 1 Float 4.0 30;
    /// Inverse hyperbolic cosine.
    Acosh "acosh" 1 Float 4.0 30;
    /// Inverse hyperbolic tangent.
    Atanh "atanh" 1 Float 4.0 30;
    /// 1 / (1 + e^-x)
    Sigmoid "sigmoid" 1 Float 3.0 18;
    /// log(1 + e^x); its derivative is the sigmoid, also at 0 and to any order.
    Softplus "softplus" 1 Float 6.0 34;
    /// Error function.
    Erf "erf" 1 Float 3.0 25;
    /// Bitwise (bool: logical) and.
    And "and" 2 Bits 0.0 1;
    /// Bitwise (bool: logical) or.
    Or "or" 2 Bits 0.0 1;
    /// Bitwise (bool: logical) exclusive or.
    Xor "xor" 2 Bits 0.0 1;
    /// Bitwise (bool: logical) complement.
    Not "not" 1 Bits 0.0 1;
    /// Left shift; shifts of the width or more give 0.
    Shl "shl" 2 Bits 0.0 1;
    /// Right shift, arithmetic for signed types; shifts of the width or more act as width - 1 (signed) or give 0.
    Shr "shr" 2 Bits 0.0 1;
    /// x == y (false for NaN)
    Eq "eq" 2 Compare 0.0 1;
    /// x != y (true for NaN)
    Ne "ne" 2 Compare 0.0 1;
    /// x < y (false for NaN)
    Lt "lt" 2 Compare 0.0 1;
    /// x <= y (false for NaN)
    Le "le" 2 Compare 0.0 1;
    /// Neither infinite nor NaN.
    IsFinite "is_finite" 1 Test 0.0 2;
    /// NaN.
    IsNan "is_nan" 1 Test 0.0 1;
    /// The second operand where the first is true, else the third.
    Select "select" 3 Select 0.0 1;
    /// x * y + z with one rounding. Never made by rewrites in exact mode; polynomials of the back ends use it.
    Fma "fma" 3 Float 0.0 1;
}

impl ScalarOp {
    /// Its row.
    pub fn row(self) -> &'static Row {
        &TABLE[self as usize]
    }
    /// Its name.
    pub fn name(self) -> &'static str {
        self.row().name
    }
    /// Number of operands.
    pub fn arity(self) -> usize {
        self.row().arity as usize
    }
    /// The operation with this name.
    pub fn parse(name: &str) -> Option<ScalarOp> {
        TABLE.iter().find(|r| r.name == name).map(|r| r.op)
    }
}
