"""The synthetic world: problems whose every parameter, dependency, value and step is known exactly."""
