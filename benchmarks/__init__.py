"""Unweave beside its peers: step time, quality, analysis and reading, measured in one environment on one machine."""
