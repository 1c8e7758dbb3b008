"""Stages of an instruction student, one file each, trained one after another. `schemas.kinds.STAGES` finds them."""
