"""What several tests share. A helper is imported (`from tests.helpers.paths import ROOT`), never run by path."""
