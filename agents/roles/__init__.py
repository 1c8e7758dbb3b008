"""Roles: a prompt, a typed reply, and a pool of models that may play it. Each module names its public functions."""
