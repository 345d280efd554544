"""Distillation in six parts: source, teacher, divergence, weight, regularizer, outcome.

Each part decides one thing and knows nothing of the others; `method.py` puts them together and
`objective.py` makes of them what `train/core/loop.py` runs. A method is a YAML file of about ten lines in
`configs/method/`.

Try: python -m train.opd.run --help, and python -m train.opd.table for what every method chooses.
"""
