"""Sections of the report for one kind of study each."""
