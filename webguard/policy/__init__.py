"""Policy: YAML to a frozen policy, and the one place that decides."""
