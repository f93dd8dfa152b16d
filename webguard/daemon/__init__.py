"""Wiring: one file per process we run. The only place that knows all rooms."""
