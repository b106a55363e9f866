"""Unweave takes the features of a neural network apart, and says with controls what of it is real."""
