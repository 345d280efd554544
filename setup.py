"""What pyproject.toml cannot say: a wheel holds configs/ as `train.configs`, and the launcher as `glasshouse`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["synth*", "models*", "train*", "probes*"]), "train.configs", "glasshouse"],
    package_dir={"train.configs": "configs", "glasshouse": "train/launcher"},
)
