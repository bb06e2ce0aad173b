"""Speed: what answers cost under each method, on any model, against plain transformers in the same process."""
