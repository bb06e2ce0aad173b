"""sinkbench: compare training-free interventions on vision-language models."""

__version__ = "0.1.0"
