"""Steps that methods share: the draft of a candidate, draws, the panel, relabelling, calibration, sizes of calls."""
