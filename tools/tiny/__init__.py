"""What `tools/train_tiny.py` is made of: recipe, text, data, model, training loop, evaluation, model card."""
