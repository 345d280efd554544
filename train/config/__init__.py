"""From YAML and `key=value` overrides to one frozen dataclass."""
