//! Nothing to use: this package holds the end-to-end tests (`tests/e2e`), the golden bytes of the wire
//! (`golden`) and the client in another language (`python`).
