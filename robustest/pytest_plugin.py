"""The pytest plugin: imports nothing heavy until a robustness test runs."""
