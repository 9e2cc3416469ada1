"""Changes of the source that no test should notice: results stay, or are as good; and why."""

# By module, line before and line after.
EQUAL: dict[tuple[str, str, str], str] = {
    (
        "mine/chunks",
        "return values + noise.reshape(values.shape)",
        "return values - noise.reshape(values.shape)",
    ): "normal noise is symmetric",
    (
        "estimate/eigenmaps",
        "degrees = np.asarray(graph.sum(axis=1)).ravel()",
        "degrees = np.asarray(graph.sum(axis= 0)).ravel()",
    ): "the graph is symmetric",
    (
        "estimate/candidates",
        "for scores, columns in zip(ranks.of_fold(0), standardized.of_fold(0), strict=True):",
        "for scores, columns in zip(ranks.of_fold(0), standardized.of_fold( -1), strict=True):",
    ): "standardized columns are the same in all folds",
    (
        "estimate/candidates",
        "for side, kind, name in zip((x, z), kinds, names, strict=True):",
        "for side, kind, name in zip((x, z), kinds, names, strict=False):",
    ): "all three are pairs",
    (
        "estimate/pairs",
        "kind = own, x.shape[1:], z.shape[1:], is_labels(z)",
        "kind = own, x.shape[1:], z.shape[ 0:], is_labels(z)",
    ): "all pairs have as many rows",
    (
        "estimate/gaussian_start",
        "least = MIN_RELATIVE_SPREAD * jnp.sqrt(squares * mean_variance) + 1e-6",
        "least = MIN_RELATIVE_SPREAD * jnp.sqrt(squares / mean_variance) + 1e-6",
    ): "prepared columns have a mean variance near 1; the bound is for what is constant",
    (
        "estimate/patch_features",
        "side = int(np.clip(round(min(images.shape[1:3]) / 4.5), 2, 6))",
        "side = int(np.clip(round(min(images.shape[1:3]) / 4.5), 2, 5))",
    ): "patches of 5 pixels are a choice, too",
    (
        "estimate/canonical",
        "left, _, right = np.linalg.svd(white[0].T @ cross @ white[1], full_matrices=False)",
        "left, _, right = np.linalg.svd(white[0].T @ cross @ white[1], full_matrices=True)",
    ): "what is more is cut off",
    (
        "information_plane/observation",
        "all_key = jax.random.fold_in(key, 2)",
        "all_key = jax.random.fold_in(key, 3)",
    ): "another stream of random numbers",
    (
        "information_plane/figure_runs",
        "title = wrap(name, COLUMN_WIDTH * 0.7)",
        "title = wrap(name, COLUMN_WIDTH / 0.7)",
    ): "where a title is broken is looks",
}
