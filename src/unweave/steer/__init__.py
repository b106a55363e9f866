"""Stage: move latents inside a model, and see what changes."""
