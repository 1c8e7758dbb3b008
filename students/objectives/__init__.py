"""Objectives: what a classifier's training minimises, one file each. `schemas.kinds.OBJECTIVES` finds them by name."""
