"""Kinds for Graft from another distribution: docs/extend.md shows these files."""
