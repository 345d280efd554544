"""The source part: which responses the student learns from."""
