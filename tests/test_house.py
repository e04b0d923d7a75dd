"""The rules of the house: import arrows, docstrings of packages, file sizes, words, runnable examples."""

from __future__ import annotations

import ast
import doctest
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = ("kernels", "features", "models", "pipelines", "serving", "pagewise")
TEXT = {".py", ".md", ".toml", ".txt", ".sh", ".yaml", ".yml", ".html", ".json", ""}
MOST_LINES = 500

# Spelt in pieces, so that this file does not contain them.
FORBIDDEN = [re.escape(word) for word in ("../" + "shared", "/wo" + "rk/", "sub" + "agent", "TO" + "DO", "FIX" + "ME")]
FORBIDDEN += [r"https?://[\w.]*(?:pyp" + r"i|pytorch)[\w.]*/(?:simple|whl)", r"--(?:extra-)?index" + r"-url"]


def sources() -> list[Path]:
    return [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]


def texts() -> list[Path]:
    folders = [ROOT / name for name in (*PACKAGES, "tests", "docs", "infra")]
    inside = [
        path for folder in folders for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts
    ]
    top = [path for path in ROOT.iterdir() if path.is_file() and not path.name.startswith(".git")]
    return sorted(path for path in inside + top if path.suffix in TEXT)


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_import_arrows() -> None:
    code = "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# what one process imports, one after the other, and the libraries that are not there by then: each costs the processes
# of the service seconds and a hundred megabytes
IMPORTS = {
    "serving.run, models.registry": ("torch", "sklearn", "scipy", "faiss", "torchrec", "mlflow"),
    "serving.assembly, models.recommend.release": (
        "sklearn",
        "scipy.optimize",
        "torch.distributed.checkpoint",
        "torchrec",
        "mlflow",
    ),
    "models.training.genrec": ("sklearn", "torchrec", "mlflow"),
}


@pytest.mark.integration
def test_libraries_are_imported_only_where_they_are_needed() -> None:
    program = "import sys\n" + "\n".join(
        f"import {modules}; print([name for name in {absent} if name in sys.modules])"
        for modules, absent in IMPORTS.items()
    )
    told = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert dict(zip(IMPORTS, told.stdout.split("\n"), strict=False)) == dict.fromkeys(IMPORTS, "[]")


def test_every_package_says_what_lives_in_it() -> None:
    silent = [relative(path) for path in sources() if path.name == "__init__.py" and not documented(path)]
    assert silent == []


def test_every_module_says_what_it_is() -> None:
    assert [relative(path) for path in sources() if not documented(path)] == []


def documented(path: Path) -> bool:
    return bool(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))))


def test_no_file_is_too_long() -> None:
    lengths = {
        relative(path): len(path.read_text(encoding="utf-8").splitlines()) for path in texts() if path.suffix == ".py"
    }
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}


def test_the_project_speaks_only_of_itself() -> None:
    pattern = re.compile("|".join(FORBIDDEN))
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if pattern.search(line)
    ]
    assert found == []


@pytest.mark.parametrize(
    "path", [path for path in sources() if ">>>" in path.read_text(encoding="utf-8")], ids=relative
)
def test_examples_in_docstrings_run(path: Path) -> None:
    module = importlib.import_module(relative(path).removesuffix(".py").replace("/", ".").removesuffix(".__init__"))
    outcome = doctest.testmod(module)
    assert outcome.attempted > 0
    assert outcome.failed == 0
