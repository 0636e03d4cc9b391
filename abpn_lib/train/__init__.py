"""From a recipe to trained weights, in a run's folder."""
