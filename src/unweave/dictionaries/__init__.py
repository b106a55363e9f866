"""Dictionaries, trained and classical, one file each, registered under the name that the command line uses."""
