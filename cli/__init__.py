"""The `graft` command, one file for each group of verbs."""
