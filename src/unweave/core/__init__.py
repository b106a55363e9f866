"""Foundation: configurations, registry, randomness, progress, errors."""
