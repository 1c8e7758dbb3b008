"""Flows: what Prefect runs, and the control of its server. See AGENTS.md in this folder."""
