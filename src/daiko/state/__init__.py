"""The one store of configuration and state, its records and migrations."""
