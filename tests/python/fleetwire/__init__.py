"""A fleet client in Python, written from the description of the wire format alone: no generated code, nothing shared with the Rust crates.

Read `descriptors` first: it is the wire as a table. `walker` is a second, independent reader of encoded messages.
`connect` and `control` are the two transports, `node` and `operator` the two sides that use them.
"""
