"""Judging solutions: the grammar, the algebra, the checker, and an independent audit of records."""
