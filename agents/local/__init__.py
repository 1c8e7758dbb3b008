"""Models on this machine: embedded GGUF servers and the sentence encoder."""
