"""Every path, symbol, link and command that the documents name exists."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from pagewise import invocation
from pagewise.main import VERBS

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "infra").rglob("*.md"))]
PACKAGES = ("kernels", "features", "models", "pipelines", "serving", "pagewise")
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def prose(document: Path) -> str:
    return FENCE.sub("", document.read_text(encoding="utf-8"))


def commands(document: Path) -> list[str]:
    blocks = [body for language, body in FENCE.findall(document.read_text(encoding="utf-8")) if language == "bash"]
    return [line for block in blocks for line in block.splitlines() if line.strip()]


def names(pattern: str) -> list[tuple[str, str]]:
    return [
        (document.name, name) for document in DOCUMENTS for name in dict.fromkeys(re.findall(pattern, prose(document)))
    ]


@pytest.mark.parametrize(("document", "path"), names(r"`((?:[\w.-]+/)+[\w.-]*)`"))
def test_paths_in_documents_exist(document: str, path: str) -> None:
    first = path.split("/")[0]
    if first != "." and (ROOT / first).exists():  # tables/events/ and the like lie in a workspace
        assert (ROOT / path).exists(), f"{document} names {path}"


@pytest.mark.parametrize(("document", "symbol"), names(rf"`((?:{'|'.join(PACKAGES)})(?:\.\w+)+)(?:\(.*?\))?`"))
def test_symbols_in_documents_exist(document: str, symbol: str) -> None:
    assert resolves(symbol), f"{document} names {symbol}"


def resolves(symbol: str) -> bool:
    parts = symbol.split(".")
    for split in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:split]))
        except ModuleNotFoundError:
            continue
        for name in parts[split:]:
            fields = getattr(found, "__dataclass_fields__", {})
            if not hasattr(found, name) and name not in fields:
                return False
            found = getattr(found, name, None)
        return True
    return False


def test_a_symbol_that_does_not_exist_is_found() -> None:
    assert resolves("features.schemas.EVENTS")
    assert not resolves("features.schemas.EVENTZ")
    assert not resolves("features.shemas")


@pytest.mark.parametrize(
    ("document", "link"),
    [(document, link) for document in DOCUMENTS for link in re.findall(r"\]\(([^)#:]+)\)", prose(document))],
    ids=lambda value: getattr(value, "name", value),
)
def test_links_in_documents_lead_somewhere(document: Path, link: str) -> None:
    assert (document.parent / link).exists()


@pytest.mark.parametrize(
    ("document", "command"),
    [(document.name, command) for document in DOCUMENTS for command in commands(document)],
)
def test_commands_in_documents_are_understood(document: str, command: str) -> None:
    """The command's verb exists and it takes these arguments; integration tests run the commands themselves."""
    words = shlex.split(command, comments=True)
    if words[0] == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert [word for word in words[1:] if "=" not in word and word not in targets] == []
        return
    assert words[0] == "pagewise", f"{document}: {command!r} is neither make nor pagewise"
    verb = next(verb for verb in VERBS if verb.name == words[1])
    module = importlib.import_module(f"pagewise.commands.{verb.module}")
    args = invocation.parse(verb.name, verb.help, module, words[2:])
    invocation.load_settings(args)


def test_the_readme_lists_every_command() -> None:
    table = (ROOT / "README.md").read_text()
    assert [verb.name for verb in VERBS if not re.search(rf"`(?:pagewise )?{verb.name}\b", table)] == []


def test_the_continuous_integration_runs_the_readmes_test_command() -> None:
    assert (ROOT / ".ci" / "run").read_text().splitlines()[-1] == "exec make test"
    assert "make test" in commands(ROOT / "README.md")
