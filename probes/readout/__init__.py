"""Reading hidden states: activations, linear and V-probes, controls."""
