"""Kinds of student, one file each: classifiers, instruction students. `schemas.kinds.STUDENTS` finds them by name."""
