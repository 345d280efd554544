"""Tests by tier: unit, numeric, golden, cli, bench; `helpers` is what they share."""
