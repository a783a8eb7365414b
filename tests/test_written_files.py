from __future__ import annotations

import os
import stat
import subprocess
import sys

import pytest

from startup_llm import written_files
from startup_llm.run_folder import RunFolder
from startup_llm.written_files import NewFile, find_owner


@pytest.fixture(params=[True, False], ids=["without a name", "under another name"])
def can_be_nameless(request, monkeypatch) -> bool:
    if not request.param:
        monkeypatch.delattr(os, "O_TMPFILE")
    return request.param


def test_a_file_gets_its_name_when_it_is_whole(can_be_nameless, tmp_path):
    file = NewFile(tmp_path / "a.csv")
    file.stream.write(b"rows")
    assert "a.csv" not in os.listdir(tmp_path)
    assert (os.listdir(tmp_path) == []) == can_be_nameless
    file.keep()
    file.close()
    assert os.listdir(tmp_path) == ["a.csv"]
    assert (tmp_path / "a.csv").read_bytes() == b"rows"
    umask = os.umask(0)
    os.umask(umask)
    assert stat.S_IMODE((tmp_path / "a.csv").stat().st_mode) == 0o666 & ~umask


def test_a_file_replaces_another_or_a_link_but_not_its_target(can_be_nameless, tmp_path):
    (tmp_path / "mine").write_text("years of work")
    (tmp_path / "a.csv").symlink_to("mine")
    file = NewFile(tmp_path / "a.csv")
    file.stream.write(b"rows")
    file.keep()
    file.close()
    assert (tmp_path / "mine").read_text() == "years of work"
    assert (tmp_path / "a.csv").read_bytes() == b"rows"
    assert not (tmp_path / "a.csv").is_symlink()


def test_a_file_that_is_not_kept_leaves_nothing(can_be_nameless, tmp_path):
    file = NewFile(tmp_path / "a.csv")
    file.stream.write(b"rows")
    file.close()
    assert os.listdir(tmp_path) == []


def test_a_file_on_a_file_system_that_names_nothing_afterwards_is_copied(tmp_path, monkeypatch):
    def refuse(*_: object, **__: object) -> None:
        raise OSError("no links here")

    monkeypatch.setattr(written_files.os, "link", refuse)
    file = NewFile(tmp_path / "a.csv")
    file.stream.write(b"rows")
    file.keep()
    file.close()
    assert (tmp_path / "a.csv").read_bytes() == b"rows"
    assert os.listdir(tmp_path) == ["a.csv"]


def test_a_killed_writer_leaves_nothing(tmp_path):
    code = (
        "import os, pathlib, sys; from startup_llm.written_files import NewFile\n"
        "file = NewFile(pathlib.Path(sys.argv[1])); file.stream.write(b'x' * 100000); os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path / "a.csv"], check=False)
    assert os.listdir(tmp_path) == []


def test_a_file_of_a_run_is_known_as_such(tmp_path):
    with RunFolder(tmp_path / "a") as run:
        run.write_json("results.json", {})
        run.finish()
    assert find_owner(tmp_path / "a" / "results.json") == tmp_path / "a"
    assert find_owner(tmp_path / "a" / "answers.csv") is None
