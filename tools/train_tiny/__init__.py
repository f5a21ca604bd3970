"""Trains the tiny Wan2.2 that the pack ships: every model of the family at toy size."""
