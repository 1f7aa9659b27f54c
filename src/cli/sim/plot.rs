//! Drawings.
use crate::sim::churn::{Scenario, Summary};
pub fn churn(_: &Scenario, _: &[Summary]) -> String {
    String::new()
}
