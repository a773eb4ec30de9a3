"""YAML only: presets, regimes, variants, search spaces, studies and the published table."""
