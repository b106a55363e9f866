"""The conformance suite of dictionaries."""
