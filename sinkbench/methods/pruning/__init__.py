"""Methods that drop image tokens: before the language model reads them, or on their way through its layers."""
