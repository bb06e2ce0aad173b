"""Scenes: a rendered data set of emoji objects with exact annotations, small enough to travel with the code."""
