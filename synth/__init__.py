"""The synthetic world: problems whose every parameter, dependency, value and step is known exactly."""

from synth.exit_codes import quiet_start

quiet_start()
