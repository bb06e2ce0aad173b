"""sinkbench from Python: `evaluate` runs what the command line runs, `attach` puts a method into a model of yours."""
