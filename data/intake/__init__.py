"""Existing datasets as rows for the lake: files are found and decoded, columns guessed, rows checked and put in splits.

`sources.find` says what a source holds, `columns.guess` which column is what, `collect.collect` gives the rows.
"""
