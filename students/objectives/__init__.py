"""Objectives: losses of a classifier's training, one file each. `schemas.kinds.OBJECTIVES` finds them by name."""
