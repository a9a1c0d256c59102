"""Devices that wrap a device: `layer.Layer` passes everything on, each other module changes one
thing about it. Layers stack; the one on top is what the logical unit sees."""
