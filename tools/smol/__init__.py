"""What `tools/train_tiny.py` needs to train smol-llava: Scenes in natural wording, and text without images."""
