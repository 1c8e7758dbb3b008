"""Instruction students: a causal model, supervised on accepted responses and then, if set, by preferences."""
