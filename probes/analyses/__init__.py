"""Analyses of distillation: what a teacher's signal is worth, where steps come from, what was gained and lost.

Each module is a `task` of `probes.run` and has the same four names:

    NAME                              of the task, and of its section of settings
    checkpoints(config)               setting -> path of the checkpoints that it reads besides `model`
    run(config, models, parts)        the content of summary.json; `models` by the same settings, and "model"; what
                                      `parts` holds is not done again after a kill
    figure(summary)                   its one figure

A summary holds `tables`, name -> rows of plain numbers and intervals ({value, low, high, n}), which `probes.run` prints
and writes as tables/NAME.csv, `curves`, which are written but not printed, and `notes`, lines to go with them.
Intervals are 95%, bootstrapped over problems.
"""
