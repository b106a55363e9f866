"""Dictionaries of other libraries: read, written, and exchanged through the hub."""

from unweave.formats.hub import push
from unweave.formats.places import export, load, pull

__all__ = ["export", "load", "pull", "push"]
