"""The examples of the docstrings of all public names are there, and true."""

import doctest

import pytest

import mine_jax

pytestmark = pytest.mark.usefixtures("compile_fast")

GLOBALS = {name: getattr(mine_jax, name) for name in mine_jax.__all__}


@pytest.mark.parametrize("name", mine_jax.__all__)
def test_examples_are_true(name):
    examples = doctest.DocTestFinder(exclude_empty=True).find(GLOBALS[name], name, globs=GLOBALS)
    runner = doctest.DocTestRunner()
    for example in examples:
        runner.run(example)
    results = runner.summarize()
    assert results.failed == 0
    assert results.attempted > 0
