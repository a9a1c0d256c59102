"""The documents of docs/reference/, one module each: tables of the code as Markdown."""
