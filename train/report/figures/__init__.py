"""Figures that any report may show."""
