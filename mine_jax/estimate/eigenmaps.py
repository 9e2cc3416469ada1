"""Coordinates of samples on the manifold near which they lie: Laplacian eigenmaps."""

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from scipy.sparse.linalg import ArpackNoConvergence, LinearOperator, eigsh
from sklearn.neighbors import NearestNeighbors

NUM_NEIGHBORS = 10
NUM_EIGENMAPS = 20
RESOLUTION = 1e-5  # of the standard deviation of all numbers; rows are equal up to rounding
MIN_WEIGHT = 1e-6  # of an edge, so that each row has a neighbor
TOLERANCE = 1e-4  # of an eigenvalue; the coordinates are fed to a network
MAX_RESTARTS = 300  # of the eigensolver, which takes tens
MAX_DENSE = 500  # different rows up to which all eigenvectors are computed


def eigenmaps(columns: NDArray, count: int = NUM_EIGENMAPS) -> NDArray:
    """Compute diffusion coordinates of samples from the graph of their nearest neighbors.

    Samples that many short steps connect get similar coordinates: clusters become points, and
    curved sheets flat. Belkin and Niyogi 2003, "Laplacian eigenmaps"; weights with a scale for each
    sample as in Zelnik-Manor and Perona 2004, "Self-tuning spectral clustering", and divided by the
    density of samples as in Coifman and Lafon 2006, "Diffusion maps" (α = 1).

    The coordinates are a function of the rows alone, whatever their order: equal rows are one node
    of the graph. Otherwise sorted samples would show their places by them.

    Args:
      columns: (n, d), finite, with distances that mean something: of one scale.
      count: number of coordinates.

    Returns:
      (n, k), of zero mean and unit variance, float32: those of the slowest diffusion first.
      k = min(count, m − 1) for m different rows, fewer where the eigensolver does not converge; one
      column of zeros if there are none.
    """
    nodes, node_of_row = _different_rows(columns)
    count = min(count, len(nodes) - 1)
    vectors = _slowest(_transitions(nodes), count) if count else np.zeros((1, 0), np.float32)
    if not vectors.shape[1]:
        return np.zeros((len(columns), 1), np.float32)
    coordinates = vectors[node_of_row]
    coordinates -= coordinates.mean(axis=0)
    deviation = coordinates.std(axis=0)
    return (coordinates / np.where(deviation > 0, deviation, 1)).astype(np.float32)


def _different_rows(columns: NDArray) -> tuple[NDArray, NDArray]:
    """Return the different rows, (m, d), on a fine grid and sorted, and the place of each row."""
    centered = columns - columns.mean(axis=0)
    spacing = RESOLUTION * centered.std()
    grid = np.round(centered / (spacing if spacing > 0 else 1))
    order = np.lexsort(grid.T)
    differs = np.any(np.diff(grid[order], axis=0), axis=1)
    place = np.empty(len(grid), int)
    place[order] = np.concatenate([[0], np.cumsum(differs)])
    return grid[order[np.concatenate([[True], differs])]], place


def _transitions(nodes: NDArray) -> tuple[sparse.csr_array, NDArray]:
    """Return the symmetric form of the probabilities of steps, (m, m), and of nodes, (m,)."""
    m = len(nodes)
    neighbors = min(NUM_NEIGHBORS, m - 1)
    finder = NearestNeighbors(n_neighbors=neighbors, algorithm="brute").fit(nodes)
    distances, others = finder.kneighbors()  # of all nodes, without themselves
    rows, others = np.repeat(np.arange(m), neighbors), others.ravel()
    reach = np.maximum(distances[:, -1], 1)  # of the grid
    relative = distances.ravel() ** 2 / reach[rows] / reach[others]
    weights = np.maximum(np.exp(-2 * relative), MIN_WEIGHT).astype(np.float32)
    graph = sparse.csr_array((weights, (rows, others)), (m, m))
    graph = graph.maximum(graph.T)
    for power in (1.0, 0.5):  # density, then the symmetric form of the steps' probabilities
        degrees = np.asarray(graph.sum(axis=1)).ravel()
        scaling = sparse.diags_array(degrees**-power)
        graph = scaling @ graph @ scaling
    return graph, degrees / degrees.sum()


def _slowest(transitions: tuple[sparse.csr_array, NDArray], count: int) -> NDArray:
    """Return the slowest modes of diffusion but the constant one, (m, count)."""
    graph, probabilities = transitions
    constant = np.sqrt(probabilities)  # the eigenvector of eigenvalue 1 that all graphs have
    m = len(constant)
    if m <= MAX_DENSE:
        _, vectors = np.linalg.eigh(graph.toarray() - 2 * np.outer(constant, constant))
        return vectors[:, : -count - 1 : -1] / constant[:, None]
    operator = LinearOperator(
        (m, m), matvec=lambda v: graph @ v - 2 * constant * (constant @ v), dtype=np.float32
    )
    start = np.random.default_rng(0).standard_normal(m, np.float32)
    try:
        values, vectors = eigsh(
            operator, count, which="LA", v0=start, tol=TOLERANCE, maxiter=MAX_RESTARTS
        )
    except ArpackNoConvergence as error:
        values, vectors = error.eigenvalues, error.eigenvectors
    return vectors[:, np.argsort(-values)] / constant[:, None]
