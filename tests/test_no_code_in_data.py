"""Nothing in data or run folders is executed: the program has no way to."""

import ast
from pathlib import Path

import mine_jax

ROOT = Path(mine_jax.__file__).parents[1]
SOURCES = [path for part in ("mine_jax", "experiments") for path in (ROOT / part).rglob("*.py")]
# Modules whose readers run what a file says, and calls that run text.
MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
CALLS = {"eval", "exec", "__import__"}
UNPACKING = {"extractall", "extract", "unpack_archive"}


def faults_of(text):
    """What a source has that could run or unpack data, by line."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, a.name) for a in node.names if a.name.split(".")[0] in MODULES]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            found.append((node.lineno, node.module))
        elif isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            loads = name in ("np.load", "numpy.load") and keywords.get("allow_pickle") != "False"
            if loads or name in ("torch.load", *CALLS) or name.rpartition(".")[2] in UNPACKING:
                found.append((node.lineno, name))
    return found


def test_sources_cannot_run_what_they_read():
    assert len(SOURCES) > 50
    faults = {path.name: faults_of(path.read_text()) for path in SOURCES}
    assert not {name: found for name, found in faults.items() if found}


def test_each_way_to_run_data_is_found():
    for text in (
        *("import pickle", "from joblib import load", "import yaml.loader", "eval(text)"),
        *("np.load(path)", "np.load(path, allow_pickle=True)", "zip.extractall(path)"),
        "torch.load(path)",
    ):
        assert len(faults_of(text)) == 1, text
    assert not faults_of("np.load(path, allow_pickle=False)\nmodel.eval()\nre.compile('a')")
