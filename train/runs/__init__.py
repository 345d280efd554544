"""Run folders: what is in them, where they came from, and reading them back."""
