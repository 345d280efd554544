"""What is asked about a problem, and the labels."""
