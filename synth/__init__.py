"""The synthetic world: problems whose every parameter, dependency, value and step is known exactly."""

from synth.entry import quiet_start

quiet_start()
