//! Values of the interpreter.

use super::Rounding;
use crate::eval::{round_to, wrap};
use crate::graph::Ty;
use half::{bf16, f16};
use optc_abi::{DType, Tensor};

/// Elements in row-major order.
#[derive(Clone, Debug, PartialEq)]
pub enum Data {
    /// Of a float type.
    Float(Vec<f64>),
    /// Of an integer type or bool.
    Int(Vec<i64>),
}

impl Data {
    /// The elements of a tensor.
    pub fn of(t: &Tensor) -> Data {
        match t.dtype {
            DType::I32 => Data::Int(t.as_slice::<i32>().iter().map(|&v| i64::from(v)).collect()),
            DType::I64 => Data::Int(t.as_slice::<i64>().to_vec()),
            DType::U32 => Data::Int(t.as_slice::<u32>().iter().map(|&v| i64::from(v)).collect()),
            DType::U8 | DType::Bool => Data::Int(t.as_slice::<u8>().iter().map(|&v| i64::from(v)).collect()),
            DType::F32 => Data::Float(t.as_slice::<f32>().iter().map(|&v| f64::from(v)).collect()),
            DType::F64 => Data::Float(t.as_slice::<f64>().to_vec()),
            DType::BF16 => Data::Float(t.as_slice::<bf16>().iter().map(|v| v.to_f64()).collect()),
            DType::F16 => Data::Float(t.as_slice::<f16>().iter().map(|v| v.to_f64()).collect()),
        }
    }
}

/// An array.
#[derive(Clone, Debug, PartialEq)]
pub struct Value {
    /// Element type and extents.
    pub ty: Ty,
    /// Elements.
    pub data: Data,
}

impl Value {
    /// All zeros.
    pub fn zeros(ty: Ty) -> Value {
        let len = ty.len();
        let data = if ty.dtype.is_float() { Data::Float(vec![0.0; len]) } else { Data::Int(vec![0; len]) };
        Value { ty, data }
    }
    /// The elements of a float array. Panics otherwise (a compiler bug).
    pub fn floats(&self) -> &[f64] {
        match &self.data {
            Data::Float(v) => v,
            Data::Int(_) => panic!("compiler bug: {} where floats are wanted", self.ty),
        }
    }
    /// The elements of an integer or bool array. Panics otherwise (a compiler bug).
    pub fn ints(&self) -> &[i64] {
        match &self.data {
            Data::Int(v) => v,
            Data::Float(_) => panic!("compiler bug: {} where integers are wanted", self.ty),
        }
    }
    /// Part `index` of the leading axis.
    pub fn row(&self, index: usize) -> Value {
        let ty = Ty::new(self.ty.dtype, self.ty.shape[1..].iter().copied());
        let range = index * ty.len()..(index + 1) * ty.len();
        let data = match &self.data {
            Data::Float(v) => Data::Float(v[range].to_vec()),
            Data::Int(v) => Data::Int(v[range].to_vec()),
        };
        Value { ty, data }
    }
    /// Overwrites part `index` of the leading axis.
    pub fn set_row(&mut self, index: usize, row: &Value) {
        let len = row.ty.len();
        let range = index * len..(index + 1) * len;
        match (&mut self.data, &row.data) {
            (Data::Float(all), Data::Float(part)) => all[range].copy_from_slice(part),
            (Data::Int(all), Data::Int(part)) => all[range].copy_from_slice(part),
            _ => panic!("compiler bug: a row of {} in {}", row.ty, self.ty),
        }
    }
    /// Rounds floats to the element type, wraps integers.
    pub fn round(&mut self) {
        let dtype = self.ty.dtype;
        match &mut self.data {
            Data::Float(v) if dtype == DType::F32 => v.iter_mut().for_each(|x| *x = f64::from(*x as f32)),
            Data::Float(_) if dtype == DType::F64 => {}
            Data::Float(v) => v.iter_mut().for_each(|x| *x = round_to(dtype, *x)),
            Data::Int(_) if dtype == DType::I64 => {}
            Data::Int(v) => v.iter_mut().for_each(|x| *x = wrap(dtype, *x)),
        }
    }
    /// As a tensor of its element type (of f64, if it is a float and nothing was rounded).
    pub fn to_tensor(&self, rounding: Rounding) -> Tensor {
        let shape = &self.ty.shape[..];
        match &self.data {
            Data::Float(v) if rounding == Rounding::Exact => Tensor::from_slice::<f64>(shape, v),
            Data::Float(v) => Tensor::from_f64(self.ty.dtype, shape, v),
            Data::Int(v) => match self.ty.dtype {
                DType::I32 => Tensor::from_slice(shape, &v.iter().map(|&x| x as i32).collect::<Vec<_>>()),
                DType::I64 => Tensor::from_slice(shape, v),
                DType::U32 => Tensor::from_slice(shape, &v.iter().map(|&x| x as u32).collect::<Vec<_>>()),
                dtype => {
                    let mut t = Tensor::zeros(dtype, shape);
                    t.bytes_mut().iter_mut().zip(v).for_each(|(byte, &x)| *byte = x as u8);
                    t
                }
            },
        }
    }
}
