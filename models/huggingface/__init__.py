"""Hugging Face folders: architectures, export and import."""
