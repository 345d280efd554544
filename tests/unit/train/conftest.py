"""What the tests of settings and of recipes share."""

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl


@pytest.fixture(scope="module")
def composed_once():
    """Hydra puts the files of each choice together once, which is nearly all of what loading settings takes."""
    real, found = ConfigLoaderImpl.load_configuration, {}

    def once(self, name, words, *more):
        key = (name, *words)
        found[key] = found.get(key) or real(self, name, words, *more)
        return found[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConfigLoaderImpl, "load_configuration", once)
        yield
