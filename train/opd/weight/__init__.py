"""The weight part: which positions and responses count."""
