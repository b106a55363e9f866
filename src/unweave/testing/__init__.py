"""Conformance suites that anybody can run on a dictionary of their own, and the planted data that they use."""

from unweave.testing.dictionaries.claims import Claims, example
from unweave.testing.dictionaries.suite import CHECKS, DictionaryConformance, check_dictionary
from unweave.testing.planted import Planted, planted
from unweave.testing.report import ConformanceError, Report

__all__ = [
    "CHECKS",
    "Claims",
    "ConformanceError",
    "DictionaryConformance",
    "Planted",
    "Report",
    "check_dictionary",
    "example",
    "planted",
]
