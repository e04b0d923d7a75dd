"""Who is named in a file of ids."""

from pathlib import Path

import pytest

from pagewise.commands.forget import users_named


def write(folder: Path, content: bytes) -> str:
    (folder / "ids.txt").write_bytes(content)
    return f"@{folder / 'ids.txt'}"


def test_a_byte_order_mark_and_windows_line_ends_are_no_part_of_an_id(tmp_path: Path) -> None:
    assert users_named(write(tmp_path, "\ufeffann\r\n\r\n bob \n-x\n@y".encode())) == ["ann", "bob", "-x", "@y"]


def test_an_id_is_not_cut_where_python_ends_lines(tmp_path: Path) -> None:
    """Its parts may be other persons."""
    assert users_named(write(tmp_path, "ann\x85bob\u2028eve\n".encode())) == ["ann\x85bob\u2028eve"]


def test_a_file_that_is_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ids\.txt: expected ids as UTF-8, got byte 0xff at byte 5; "):
        users_named(write(tmp_path, b"ann\n\xff"))


def test_a_file_without_ids_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ids\.txt: expected ids of users, one per line, got none"):
        users_named(write(tmp_path, b"\xef\xbb\xbf\n  \n"))
