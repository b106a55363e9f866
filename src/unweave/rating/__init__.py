"""The page on which people rate, and nothing else."""
