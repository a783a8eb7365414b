from __future__ import annotations

import errno
import gzip
import io
import json
import os
import sys
import zipfile
import zlib

import pytest

from startup_llm.errors import UserError, nearest, run_recipe
from startup_llm.run_folder import RunFolder


def run(error: BaseException | None) -> int | str | None:
    def main() -> None:
        if error is not None:
            raise error

    try:
        run_recipe(main)
    except SystemExit as stop:
        return stop.code
    return None


@pytest.mark.parametrize(
    ("name", "hint"),
    [("rnak", "; did you mean rank?"), ("alhpa", "; did you mean alpha?"), ("zzzz", ""), ("", "")],
)
def test_nearest_names_the_closest_candidate_or_nothing(name, hint):
    assert nearest(name, ["rank", "alpha"]) == hint


def test_recipe_that_ends_well_neither_exits_nor_writes(capsys):
    assert run(None) is None
    assert capsys.readouterr() == ("", "")


def test_users_mistake_is_one_line_on_stderr_and_exit_code_2(capsys):
    assert run(UserError("width (10) must be\n  divisible by heads (4)")) == 2
    assert capsys.readouterr() == ("", "error: width (10) must be divisible by heads (4)\n")


def test_the_details_of_a_mistake_stand_a_line_each_above_it(capsys):
    assert run(UserError("two faults", ["first\nplace", "second place"])) == 2
    assert capsys.readouterr() == ("", "  first place\n  second place\nerror: two faults\n")


def test_interrupt_exits_with_130_and_without_a_traceback(capsys):
    assert run(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == "error: stopped by a signal\n"


def test_full_disk_is_one_line_with_the_place_and_exit_code_2(capsys):
    def main() -> None:
        with open("/dev/full", "w", encoding="utf-8") as file:
            file.write("x")

    with pytest.raises(SystemExit) as caught:
        run_recipe(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == ("error: no space left on the disk (while writing); free some space\n")


def test_full_disk_names_the_file_where_the_error_knows_it(capsys):
    assert run(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/model.safetensors")) == 2
    assert "no space left on the disk (/data/model.safetensors)" in capsys.readouterr().err


def test_a_recipe_that_keeps_its_work_says_how_to_go_on(tmp_path, monkeypatch, capsys):
    def main() -> None:
        with RunFolder(tmp_path / "a") as run:
            (run.checkpoints / "checkpoint-1").mkdir(parents=True)
            (run.checkpoints / "checkpoint-1" / "trainer_state.json").write_text("{}")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/model.safetensors")

    with pytest.raises(SystemExit):
        run_recipe(main)
    assert capsys.readouterr().err.endswith(f"; free some space; go on with run {tmp_path / 'a'} by --resume\n")


def build_os_errors() -> list[OSError]:
    codes = ("ENOENT", "EACCES", "EPERM", "ELOOP", "ENAMETOOLONG", "ENOTDIR", "EISDIR", "EROFS", "EFBIG", "EMFILE")
    codes += ("ENXIO", "ESTALE", "EIO", "ETIMEDOUT", "ECONNREFUSED", "EXDEV")
    numbers = [getattr(errno, code) for code in codes]
    return [OSError(number, os.strerror(number), "/data/rows.csv") for number in numbers]


@pytest.mark.parametrize("error", build_os_errors(), ids=lambda error: errno.errorcode[error.errno])
def test_what_the_system_refuses_is_one_line_with_the_file(error, capsys, monkeypatch):
    assert run(error) == 2
    line = capsys.readouterr().err
    assert line.startswith("error: /data/rows.csv: ")
    assert line.count("\n") == 1
    monkeypatch.setenv("STARTUP_LLM_TRACEBACK", "1")
    with pytest.raises(type(error)) as caught:
        run(error)
    assert caught.value is error


def allocate_too_much() -> None:
    import numpy as np

    np.empty(2**62, np.uint8)


def allocate_a_tensor_that_is_too_large() -> None:
    import torch

    torch.empty(2**60)


def nest_too_deeply() -> None:
    json.loads("[" * 100_000)


def read_no_zip() -> None:
    zipfile.ZipFile(io.BytesIO(b"PK\x03\x04 cut"))


@pytest.mark.parametrize(
    ("action", "words"),
    [
        (allocate_too_much, "the memory is used up"),
        (allocate_a_tensor_that_is_too_large, "the memory is used up"),
        (nest_too_deeply, "nested too deeply"),
        (lambda: b"caf\xe9".decode(), "a file is not utf-8 text (byte 0xe9 at 3)"),
        (lambda: "\udc80".encode(), "remove it, or set PYTHONIOENCODING"),
        (lambda: zlib.decompress(b"no zlib"), "a compressed file is broken"),
        (lambda: gzip.decompress(b"\x1f\x8bcut"), "a compressed file is broken"),
        (lambda: gzip.decompress(b"no gzip"), "Not a gzipped file"),
        (read_no_zip, "a compressed file is broken"),
        (lambda: os.stat("x" * 5000), "the name is too long"),
    ],
)
def test_what_really_goes_wrong_is_one_line(action, words, capsys):
    with pytest.raises(SystemExit) as caught:
        run_recipe(action)
    err = capsys.readouterr().err
    assert (caught.value.code, err.count("\n")) == (2, 1)
    assert words in err


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyError("text")])
def test_what_is_no_users_mistake_keeps_its_traceback_and_says_where_to_report_it(error):
    with pytest.raises(type(error)) as caught:
        run_recipe(lambda: (_ for _ in ()).throw(error))
    assert caught.value is error
    if sys.version_info >= (3, 11):
        assert error.__notes__ == ["This is a fault of startup-llm: report it as a bug, with the text above."]
