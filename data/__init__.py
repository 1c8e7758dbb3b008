"""The lake and all that touches rows: commit and read, gates, versions, splits, cards, exports, explanations."""
