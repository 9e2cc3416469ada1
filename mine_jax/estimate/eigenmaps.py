"""Coordinates of samples on the manifold near which they lie: Laplacian eigenmaps."""

import numpy as np
from numpy.typing import NDArray

NUM_NEIGHBORS = 10
NUM_EIGENMAPS = 20
TOLERANCE = 1e-4  # of an eigenvalue; the coordinates are fed to a network


def eigenmaps(columns: NDArray, count: int = NUM_EIGENMAPS) -> NDArray:
    """Compute diffusion coordinates of samples from the graph of their nearest neighbors.

    Samples that many short steps connect get similar coordinates: clusters become points, and
    curved sheets flat. Belkin and Niyogi 2003, "Laplacian eigenmaps"; weights with a scale for each
    sample as in Zelnik-Manor and Perona 2004, "Self-tuning spectral clustering", and divided by the
    density of samples as in Coifman and Lafon 2006, "Diffusion maps" (α = 1).

    Args:
      columns: (n, d), with distances that mean something: of one scale.
      count: number of coordinates.

    Returns:
      (n, min(count, n − 2)), of zero mean and unit variance, float32: those of the slowest
      diffusion first.
    """
    # Imports that take a second together.
    from scipy import sparse
    from scipy.sparse.linalg import LinearOperator, eigsh
    from sklearn.neighbors import NearestNeighbors

    n = len(columns)
    neighbors, count = min(NUM_NEIGHBORS, n - 1), min(count, n - 2)
    finder = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(columns)
    distances, others = finder.kneighbors()  # of all samples, without themselves
    reach = np.maximum(distances[:, -1], np.finfo(np.float32).tiny)  # 0 among many equal samples
    rows = np.repeat(np.arange(n), neighbors)
    relative = distances.ravel() ** 2 / reach[rows] / reach[others.ravel()]
    weights = np.exp(-2 * relative).astype(np.float32)
    graph = sparse.csr_matrix((weights, (rows, others.ravel())), (n, n))
    graph = graph.maximum(graph.T)
    for power in (1.0, 0.5):  # density, then the symmetric form of the steps' probabilities
        degrees = np.asarray(graph.sum(axis=1)).ravel()
        scaling = sparse.diags_array(degrees**-power)
        graph = scaling @ graph @ scaling
    trivial = np.sqrt(degrees / degrees.sum())  # the eigenvector that all graphs have
    operator = LinearOperator(
        (n, n), matvec=lambda v: graph @ v - trivial * (trivial @ v), dtype=np.float32
    )
    start = np.random.default_rng(0).standard_normal(n, np.float32)
    values, vectors = eigsh(operator, count, which="LA", v0=start, tol=TOLERANCE)
    coordinates = vectors[:, np.argsort(-values)] / trivial[:, None]
    coordinates -= coordinates.mean(axis=0)
    deviation = coordinates.std(axis=0)
    return (coordinates / np.where(deviation > 0, deviation, 1)).astype(np.float32)
