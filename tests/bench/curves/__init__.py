"""How cost grows: one file for each question, a table and a picture of each in tests/bench/README.md. `make bench`."""
