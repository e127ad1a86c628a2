"""Weights for methods that need them: recipes, batches, losses, and the training itself."""
