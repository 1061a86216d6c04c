"""Appliances as a student would write them, for the benchmark to compare with."""
