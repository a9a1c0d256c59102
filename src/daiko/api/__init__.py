"""REST over control: routes, schemas, problems."""
