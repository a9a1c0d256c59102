"""Composition root: the one place that builds and wires everything; start and orderly stop."""
