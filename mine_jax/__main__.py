"""`python -m mine_jax`."""

import sys

from mine_jax.command_line import main

sys.exit(main())
