"""Artifacts on disk: folders written whole or not at all, with activations, codes, weights and tables inside."""
