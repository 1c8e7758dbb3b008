"""Steps of pipelines, one kind a module, loaded by name (`schemas.kinds.STEPS`). To add one: write its module."""
