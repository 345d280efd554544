"""The batches of `tests.helpers.opd_batches` as fixtures."""

from tests.helpers.opd_batches import prompts, source

__all__ = ["prompts", "source"]
