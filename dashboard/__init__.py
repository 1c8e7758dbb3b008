"""The pages that people look at. Each page is a file in `pages`; the arithmetic is DuckDB's and data/quality's."""
