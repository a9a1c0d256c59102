"""What goes over REST as JSON, one module per noun. Views are built on the records of the store."""
