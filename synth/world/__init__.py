"""A world's names, sentence templates and token vocabulary; world files and presets are the JSON files here."""
