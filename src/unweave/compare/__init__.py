"""Stage: do two sets of activations hold the same thing? Similarity beside its nulls."""
