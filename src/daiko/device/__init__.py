"""The one interface to stored blocks, its few errors, and layers that wrap a device."""
