"""The dashboard. Each page is a file in `pages`; its figures come from DuckDB and data/quality."""
