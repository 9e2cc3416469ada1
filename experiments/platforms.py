"""Where an experiment computes: what its --platform flag may be, and what it does."""

NAMES = ("auto", "cpu", "gpu", "tpu")


def select(name: str) -> list[str]:
    """Make JAX compute on this platform.

    Call it before anything is computed.

    Args:
      name: one of `NAMES`; "auto" is what JAX itself would take.

    Returns:
      The names of the platform's devices.

    Raises:
      ValueError: if there is no such device, or no JAX for it.
    """
    import jax

    # JAX prefers a GPU where there is one; naming it would ask for CUDA and ROCm both.
    if name in ("cpu", "tpu"):
        jax.config.update("jax_platforms", name)
    try:
        devices = jax.devices() if name == "auto" else jax.devices(name)
        return [str(device) for device in devices]
    except RuntimeError as error:
        raise ValueError(
            f"--platform={name} is not available here ({str(error).splitlines()[0]}); install "
            "jax for it, or use --platform=auto"
        ) from error
