"""Settings of the whole suite."""

from hypothesis import settings

# A deadline would make a property test a timing test: it fails on a busy machine.
settings.register_profile("daiko", settings.default, deadline=None)
settings.load_profile("daiko")
