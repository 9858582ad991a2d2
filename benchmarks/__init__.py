"""Measurements, run by ``make bench``. Never part of the tests: they say how fast, not whether it is right."""
