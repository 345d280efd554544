"""Distillation in six parts: source, teacher, divergence, weight, regularizer, outcome.

Each part decides one thing and knows nothing of the others; `method.py` composes them into the objective that
`train/loop.py` runs. A method is a YAML file of about ten lines in `configs/method/`.

Try: python -m train.opd.run --help
"""
