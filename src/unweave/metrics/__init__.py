"""Numbers about dictionaries: pure functions of arrays and sparse codes, and sums that stream over rows."""
