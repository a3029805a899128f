//! A data set: named columns with one common axis of examples.

use crate::data::Column;
use crate::error::{Result, TrainError};
use crate::split::{self, Fraction};
use indexmap::IndexMap;

/// Named fields, each with the same number of examples.
#[derive(Clone, Debug, Default)]
pub struct DataSet {
    fields: IndexMap<String, Column>,
    rows: usize,
}

impl DataSet {
    /// From its fields. `R0115` if they differ in their number of examples, `R0105` if there is none.
    pub fn new(fields: IndexMap<String, Column>) -> Result<Self> {
        let Some((first, rows)) = fields.first().map(|(n, c)| (n.clone(), c.rows())) else {
            return Err(TrainError::new("R0105", "a data set without fields"));
        };
        for (name, column) in &fields {
            if column.rows() != rows {
                let message = format!("field `{name}` has {} examples, field `{first}` has {rows}", column.rows());
                return Err(TrainError::new("R0115", message).help("the first axis of every field counts the examples"));
            }
            if rows == 0 {
                return Err(TrainError::new("R0105", format!("field `{name}` holds no examples")));
            }
        }
        Ok(DataSet { fields, rows })
    }
    /// Number of examples.
    pub fn rows(&self) -> usize {
        self.rows
    }
    /// The fields in order.
    pub fn fields(&self) -> &IndexMap<String, Column> {
        &self.fields
    }
    /// The field with this name.
    pub fn field(&self, name: &str) -> Option<&Column> {
        self.fields.get(name)
    }
    /// These examples of every field.
    pub fn select(&self, indices: &[usize]) -> DataSet {
        let fields = self.fields.iter().map(|(name, column)| (name.clone(), column.select(indices))).collect();
        DataSet { fields, rows: indices.len() }
    }
    /// Cuts the examples as [`split::cut`] says; a part for each fraction.
    pub fn split(&self, fractions: &[Fraction], seed: Option<u64>) -> Result<IndexMap<String, DataSet>> {
        Ok(split::cut(self.rows, fractions, seed)?.into_iter().map(|(name, indices)| (name, self.select(&indices))).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use optc_abi::Tensor;

    #[test]
    fn fields_are_cut_alike() {
        let x = Tensor::from_slice(&[10, 2], &(0..20).collect::<Vec<i32>>());
        let y = Tensor::from_slice(&[10], &(0..10).map(|i| 2 * i).collect::<Vec<i32>>());
        let set = DataSet::new([("x".to_string(), x.into()), ("y".to_string(), y.into())].into_iter().collect()).unwrap();
        let parts = set.split(&[("train".to_string(), 0.8), ("test".to_string(), 0.2)], Some(0)).unwrap();
        assert_eq!((parts["train"].rows(), parts["test"].rows()), (8, 2));
        let (x, y) = (parts["train"].field("x").unwrap().to_tensor(), parts["train"].field("y").unwrap().to_tensor());
        assert!((0..8).all(|i| x.as_slice::<i32>()[2 * i] == y.as_slice::<i32>()[i]));
    }

    #[test]
    fn fields_of_different_length_are_refused() {
        let column = |n: usize| Column::from(Tensor::from_slice(&[n], &vec![0i32; n]));
        let set = |a, b| DataSet::new([("a".to_string(), column(a)), ("b".to_string(), column(b))].into_iter().collect());
        assert_eq!(set(3, 4).unwrap_err().code, "R0115");
        assert_eq!(set(0, 0).unwrap_err().code, "R0105");
        assert_eq!(DataSet::new(IndexMap::new()).unwrap_err().code, "R0105");
    }
}
