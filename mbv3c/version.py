"""The version of mbv3c."""

__version__ = "0.2.0"
