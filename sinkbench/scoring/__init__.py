"""Scoring of answers: pure functions over texts and ground truth; no model, no files, no torch."""
