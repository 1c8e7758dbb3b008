"""Tasks: the purpose of a dataset. One module per kind; `base.Task` is the interface to the rest of Graft."""
