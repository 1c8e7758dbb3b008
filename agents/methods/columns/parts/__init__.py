"""Shared by the steps of pipelines: expressions, templates, shapes of values, predicates and the order of steps."""
