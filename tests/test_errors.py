from __future__ import annotations

import errno
import os

import pytest

from startup_llm.errors import UserError, nearest, run_recipe


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


def test_interrupt_exits_with_130_and_without_a_traceback(capsys):
    assert run(KeyboardInterrupt()) == 130
    assert capsys.readouterr().err == ""


def test_full_disk_is_one_line_with_the_place_and_exit_code_2(capsys):
    def main() -> None:
        with open("/dev/full", "w", encoding="utf-8") as file:
            file.write("x")

    with pytest.raises(SystemExit) as caught:
        run_recipe(main)
    assert caught.value.code == 2
    assert capsys.readouterr().err == (
        "error: no space left on the disk (while writing); free some space, then go on with --resume\n"
    )


def test_full_disk_names_the_file_where_the_error_knows_it(capsys):
    assert run(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/model.safetensors")) == 2
    assert "no space left on the disk (/data/model.safetensors)" in capsys.readouterr().err


@pytest.mark.parametrize("error", [ValueError("a bug"), FileNotFoundError(errno.ENOENT, "gone", "x")])
def test_what_is_no_users_mistake_keeps_its_traceback(error):
    with pytest.raises(type(error)) as caught:
        run_recipe(lambda: (_ for _ in ()).throw(error))
    assert caught.value is error
