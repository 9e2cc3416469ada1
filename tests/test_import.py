"""Tests of what `import mine_jax` brings in."""

import subprocess
import sys

SLOW = ("scipy.stats", "scipy.sparse", "sklearn", "pandas", "orbax", "matplotlib", "tensorflow")
CODE = f"""
import sys
import mine_jax
print([name for name in {SLOW} if name in sys.modules])
from mine_jax import information_plane
print(all(hasattr(mine_jax, name) for name in mine_jax.__all__), information_plane.run.__name__)
"""


def test_import_leaves_slow_libraries_to_those_who_use_them():
    command = [sys.executable, "-c", CODE]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["[]", "True run"]
