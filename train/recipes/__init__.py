"""Running the stages of a recipe as processes."""
