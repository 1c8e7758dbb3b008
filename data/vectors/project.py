"""Projects embeddings to two dimensions: PCA, then t-SNE if scikit-learn is installed."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

from graft.data.vectors.model import Projection

Matrix = NDArray[np.float32]

DIMENSIONS = 50
"""Dimensions that PCA leaves for t-SNE."""
PERPLEXITY = 30.0
ROUNDS = 750
"""On 4,000 points 1,000 rounds took a third longer, for a divergence of 0.60 in place of 0.62; 500 gave 0.72."""
LEAST = 5
"""Minimum different vectors for t-SNE."""
_guard = threading.Lock()


def project(vectors: Matrix) -> tuple[Matrix, Projection]:
    """Project vectors to positions between -1 and 1.

    Equal rows get the same position, whatever the rows' order. t-SNE (van der Maaten and Hinton 2008) starts from the
    first two components, with a fixed random state and one thread, so that a repetition gives the same map. Without
    scikit-learn, or with fewer than five different rows, the projection is PCA alone.

    Args:
        vectors: Array of shape (n, d).

    Returns:
        Positions of shape (n, 2), and the projection that was used.
    """
    distinct, where = np.unique(vectors.astype(np.float32), axis=0, return_inverse=True)
    how: Projection = "pca" if len(distinct) < LEAST or find_spec("sklearn") is None else "t-sne"
    with _one_thread(how):
        places = _components(distinct, 2) if how == "pca" else _t_sne(distinct)
    return _scaled(places)[where.reshape(-1)], how


def _t_sne(distinct: Matrix) -> Matrix:
    from sklearn.manifold import TSNE

    parts = _components(distinct, DIMENSIONS)
    start = parts[:, :2] / max(float(parts[:, 0].std()), 1e-12) * 1e-4
    perplexity = min(PERPLEXITY, (len(distinct) - 1) / 3)
    model = TSNE(init=start.astype(np.float32), perplexity=perplexity, max_iter=ROUNDS, random_state=0, n_jobs=1)
    return np.asarray(model.fit_transform(parts), dtype=np.float32)


def _components(rows: Matrix, count: int) -> Matrix:
    """The first principal components of the rows, n x count at most but two at least; each one's sign is fixed."""
    centred = rows.astype(np.float64) - rows.mean(axis=0, dtype=np.float64)
    _, axes = np.linalg.eigh(centred.T @ centred)
    axes = axes[:, ::-1][:, :count]
    axes = axes * np.sign(axes[np.abs(axes).argmax(axis=0), np.arange(axes.shape[1])])
    parts = centred @ axes
    if parts.shape[1] < 2:
        parts = np.pad(parts, ((0, 0), (0, 2 - parts.shape[1])))
    return np.asarray(parts, dtype=np.float32)


def _scaled(places: Matrix) -> Matrix:
    """Centre the positions at 0 and scale the widest side to -1 to 1."""
    low, high = places.min(axis=0), places.max(axis=0)
    width = float((high - low).max())
    if width < 1e-6:
        return np.zeros_like(places)
    return np.asarray((places - (low + high) / 2) / (width / 2), dtype=np.float32)


@contextlib.contextmanager
def _one_thread(how: Projection) -> Iterator[None]:
    """Limit numeric libraries to one thread: sums of several threads vary in the last digit, which t-SNE amplifies.

    The limit applies only to loaded libraries, so scikit-learn is imported first; it holds for the whole process, so
    only one map is made at a time.
    """
    if how == "pca":
        yield
        return
    import sklearn.manifold  # noqa: F401
    from threadpoolctl import threadpool_limits

    with _guard, threadpool_limits(1):
        yield
