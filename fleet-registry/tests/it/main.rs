//! Every machine against its model, and what it promises told as scenarios.

mod models;
