"""Many runs from one file: models × methods × tasks × parameters, here or on the GPUs of a cluster."""
