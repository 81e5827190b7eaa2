"""The version number of geoseg."""

__version__ = "0.1.0"
