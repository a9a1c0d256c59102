"""The resources of the REST API, one module per noun. They translate; `control` decides."""
