"""What is measured on a model before a method can run there: one mechanism for all methods.

A *calibrator* (`base.Calibrator`) measures, `run.calibrate` gives it a model and questions that no evaluation asks, and
a `Calibration` (`artefact`) keeps what it found with everything behind it. `lookup` finds it again when a run begins.
Importing this package loads no torch.
"""
