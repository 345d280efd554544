"""A problem as arrays, its solution steps as clauses, and the validation of records."""
