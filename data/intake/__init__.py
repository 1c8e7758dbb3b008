"""Import of existing datasets: find and decode files, detect columns, check rows and assign splits.

`sources.find` lists a source's parts, `columns.guess` maps its columns to roles, `collect.collect` returns the rows.
"""
