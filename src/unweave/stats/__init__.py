"""Statistics: nulls, intervals and corrections, seeded."""
