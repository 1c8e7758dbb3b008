"""Stored embeddings of a version: the map, neighbours, search by meaning, duplicate clusters."""

from graft.data.vectors.chosen import points_of
from graft.data.vectors.groups import Cluster, clusters
from graft.data.vectors.make import LIMIT, build
from graft.data.vectors.model import ENCODER, PLACED, Embed, Near, Placed, Point
from graft.data.vectors.store import Vectors, find, forget

__all__ = [
    "ENCODER", "LIMIT", "PLACED", "Cluster", "Embed", "Near", "Placed", "Point", "Vectors", "build", "clusters",
    "find", "forget",
    "points_of",
]  # fmt: skip
