"""Door: a run or atlas folder → one offline page and its figures."""

from unweave.report.page import build_report

__all__ = ["build_report"]
