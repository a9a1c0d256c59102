"""The T10 standards as data: opcodes, layouts, sense data, pages, copy parameters. Pure."""
