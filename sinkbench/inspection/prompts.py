"""Prompts without images, for what the first token shows. No torch here."""

PROMPTS = (
    "How many dogs are there?",
    "Is there a cat in the image?",
    "What is written on the sign?",
    "Please describe this image in detail.",
    "What do you see?",
    "Is there a car in the image?",
    "How many people are there in the image?",
    "Is there an umbrella in the image?",
)
"""Text-only prompts; the first token, which is all that is looked at, precedes them anyway."""
