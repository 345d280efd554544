"""Problems for a person: text in the terminal, the dependency graph as a picture."""
