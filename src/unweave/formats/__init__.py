"""Dictionaries of other libraries: read, written, and exchanged through the hub."""
