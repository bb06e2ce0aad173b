"""Is a run still what it was? Runs paired sample by sample, with each other or with a baseline file."""
