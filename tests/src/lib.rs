//! An empty library. This package contains the end-to-end tests (`tests/e2e`), the golden bytes of every message
//! (`golden`) and a client in another language (`python`).
