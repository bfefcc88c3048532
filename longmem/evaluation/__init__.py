"""Measurements: each module is one evaluation that a command runs and a JSON file records."""
