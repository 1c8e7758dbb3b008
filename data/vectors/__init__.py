"""Embeddings of a version, made once and kept: the map, neighbours, search by meaning, duplicate clusters."""

from data.vectors.groups import Cluster
from data.vectors.make import LIMIT, build
from data.vectors.model import ENCODER, PLACED, Embed, Near, Placed, Point
from data.vectors.shown import points_of
from data.vectors.store import Vectors, find, forget

__all__ = [
    "ENCODER", "LIMIT", "PLACED", "Cluster", "Embed", "Near", "Placed", "Point", "Vectors", "build", "find", "forget",
    "points_of",
]  # fmt: skip
