"""Export formats: a module holds those of one family as `KINDS`; base.py defines `Format`."""
