"""Analysis, decision and generation of commands (the source's command control). Pure."""
