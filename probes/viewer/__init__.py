"""The page of one problem, and what notebooks show."""
