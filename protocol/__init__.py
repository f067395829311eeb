"""What is true: messages, states, tables, decisions. Pure and synchronous; no I/O, no clock, no chance."""
