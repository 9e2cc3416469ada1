"""Tests of `mine_jax.mine`."""
