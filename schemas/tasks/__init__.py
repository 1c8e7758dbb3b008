"""Tasks: what a dataset is for. One module a kind; `base.Task` is what the rest of Graft asks them."""
