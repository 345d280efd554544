"""Privileged sections before a problem: gold, peers, attempt, feedback, hint."""
