from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from startup_llm.errors import UserError
from startup_llm.run_folder import RunFolder, read_results, write_atomically


def finish_run(path: Path, value: int = 1, **options: bool) -> None:
    with RunFolder(path, **options) as run:
        run.write_json("results.json", {"value": value})
        run.finish()


def interrupt_run(path: Path, steps: tuple[int, ...] = (2,)) -> None:
    with suppress(KeyboardInterrupt), RunFolder(path) as run:
        for step in steps:
            checkpoint = run.checkpoints / f"checkpoint-{step}"
            checkpoint.mkdir(parents=True)
            (checkpoint / "trainer_state.json").write_text("{}")
        raise KeyboardInterrupt


def refuse(path: Path, **options: bool) -> str:
    with pytest.raises(UserError) as caught, RunFolder(path, **options):
        pass
    return str(caught.value)


@contextmanager
def held_by_another_process(path: Path):
    code = (
        "import sys; from startup_llm.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1]):\n    sys.stdout.write('held\\n'); sys.stdout.flush(); sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process


def test_run_is_written_beside_its_name_and_renamed_when_whole(tmp_path):
    with RunFolder(tmp_path / "runs" / "a") as run:
        run.write_json("results.json", {"accuracy": 0.5})
        assert run.path == tmp_path / "runs" / "a.partial"
        assert not run.final.exists()
        run.finish()
    assert sorted(os.listdir(tmp_path / "runs")) == ["a"]
    assert read_results(tmp_path / "runs" / "a") == {"accuracy": 0.5}


def test_run_without_results_cannot_be_finished(tmp_path):
    with pytest.raises(RuntimeError, match=r"has no results\.json"), RunFolder(tmp_path / "a") as run:
        run.finish()
    assert os.listdir(tmp_path) == []


def test_run_in_use_by_another_process_is_refused_and_free_when_that_ends(tmp_path):
    with held_by_another_process(tmp_path / "a") as process:
        assert refuse(tmp_path / "a") == (
            f"run {tmp_path / 'a'} is in use by another process; wait for it, or use another --run_dir"
        )
        assert refuse(tmp_path / "a", overwrite=True).startswith(f"run {tmp_path / 'a'} is in use")
        process.stdin.close()
    finish_run(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_refused_process_leaves_the_other_ones_lock_and_folder_alone(tmp_path):
    with held_by_another_process(tmp_path / "a") as process:
        refuse(tmp_path / "a")
        refuse(tmp_path / "a")
        assert sorted(os.listdir(tmp_path)) == [".a.lock", "a.partial"]
        process.stdin.close()


def test_killed_process_holds_no_lock(tmp_path):
    with held_by_another_process(tmp_path / "a") as process:
        process.kill()
        process.wait()
    finish_run(tmp_path / "a")
    assert read_results(tmp_path / "a") == {"value": 1}


def test_finished_run_is_refused(tmp_path):
    finish_run(tmp_path / "a")
    assert refuse(tmp_path / "a") == (
        f"run {tmp_path / 'a'} is finished; name another with --run_dir, or replace it with --overwrite"
    )
    assert refuse(tmp_path / "a", resume=True).startswith(f"run {tmp_path / 'a'} is finished")


def test_overwritten_run_stays_until_the_new_one_is_whole(tmp_path):
    finish_run(tmp_path / "a", 1)
    with RunFolder(tmp_path / "a", overwrite=True) as run:
        run.write_json("results.json", {"value": 2})
        assert read_results(tmp_path / "a") == {"value": 1}
        run.finish()
    assert read_results(tmp_path / "a") == {"value": 2}
    assert os.listdir(tmp_path) == ["a"]


def test_overwritten_run_stays_when_the_new_one_fails(tmp_path):
    finish_run(tmp_path / "a", 1)
    with pytest.raises(ValueError, match="failed"), RunFolder(tmp_path / "a", overwrite=True):
        raise ValueError("failed")
    assert read_results(tmp_path / "a") == {"value": 1}
    assert os.listdir(tmp_path) == ["a"]


def test_interrupted_run_with_checkpoints_is_kept_and_refused(tmp_path):
    interrupt_run(tmp_path / "a")
    assert refuse(tmp_path / "a") == (
        f"run {tmp_path / 'a'} was interrupted and has checkpoints in {tmp_path / 'a.partial'}; "
        "go on with --resume, or start again with --overwrite"
    )
    assert (tmp_path / "a.partial" / "checkpoints" / "checkpoint-2").is_dir()


def test_interrupted_run_without_checkpoints_leaves_nothing(tmp_path):
    interrupt_run(tmp_path / "a", steps=())
    assert os.listdir(tmp_path) == []


def test_resumed_run_finds_the_newest_checkpoint_by_its_number(tmp_path):
    interrupt_run(tmp_path / "a", steps=(2, 10, 9))
    with RunFolder(tmp_path / "a", resume=True) as run:
        assert run.last_checkpoint() == run.checkpoints / "checkpoint-10"


def test_checkpoint_that_was_not_written_whole_is_not_resumed_from(tmp_path):
    interrupt_run(tmp_path / "a", steps=(2,))
    (tmp_path / "a.partial" / "checkpoints" / "checkpoint-4").mkdir()
    with RunFolder(tmp_path / "a", resume=True) as run:
        assert run.last_checkpoint() == run.checkpoints / "checkpoint-2"


def test_checkpoint_whose_state_was_cut_while_it_was_written_is_not_resumed_from(tmp_path):
    interrupt_run(tmp_path / "a", steps=(2, 4))
    (tmp_path / "a.partial" / "checkpoints" / "checkpoint-4" / "trainer_state.json").write_text('{"epoch": 1.0, "glo')
    with RunFolder(tmp_path / "a", resume=True) as run:
        assert run.last_checkpoint() == run.checkpoints / "checkpoint-2"


def test_resume_without_anything_to_resume_starts_afresh(tmp_path):
    with RunFolder(tmp_path / "a", resume=True) as run:
        assert run.last_checkpoint() is None


def test_overwrite_drops_an_interrupted_run(tmp_path):
    interrupt_run(tmp_path / "a")
    with RunFolder(tmp_path / "a", overwrite=True) as run:
        assert os.listdir(run.path) == []


def test_folder_with_other_files_is_neither_used_nor_overwritten(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "thesis.tex").write_text("years of work")
    for overwrite in (False, True):
        assert refuse(tmp_path / "a", overwrite=overwrite) == (
            f"run_dir {tmp_path / 'a'} holds files that are not a run; name another with --run_dir"
        )
    assert (tmp_path / "a" / "thesis.tex").read_text() == "years of work"


def test_empty_folder_can_be_used(tmp_path):
    (tmp_path / "a").mkdir()
    finish_run(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


def test_file_in_the_place_of_the_folder_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    assert refuse(tmp_path / "a") == f"run_dir {tmp_path / 'a'} is a file; name a folder that does not exist yet"


def test_file_among_the_parents_is_refused(tmp_path):
    (tmp_path / "a").write_text("")
    assert refuse(tmp_path / "a" / "b").startswith(f"cannot write run_dir {tmp_path / 'a' / 'b'}: ")


def test_other_processes_of_a_distributed_run_write_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    with RunFolder(tmp_path / "a") as run:
        assert not run.is_writer
    assert os.listdir(tmp_path) == []


def test_numbers_that_are_none_are_not_written_as_json(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"), RunFolder(tmp_path / "a") as run:
        run.write_json("results.json", {"loss": float("nan")})


def test_write_replaces_a_file_and_lets_others_read_it(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")
    write_atomically(file, "näw\n")
    assert file.read_text(encoding="utf-8") == "näw\n"
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert os.listdir(tmp_path) == ["a.txt"]


def test_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    file = tmp_path / "a.txt"
    write_atomically(file, "old")
    with pytest.raises(UnicodeEncodeError):
        write_atomically(file, "a lone surrogate \udc80")
    assert file.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 64 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(place)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("needs the right to mount a small file system")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def test_full_disk_leaves_the_old_file_and_no_other(small_disk):
    file = small_disk / "a.txt"
    write_atomically(file, "old")
    with pytest.raises(OSError, match="No space left") as caught:
        write_atomically(file, "x" * 1_000_000)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_text() == "old"
    assert os.listdir(small_disk) == ["a.txt"]


def test_recipe_on_a_full_disk_says_one_line_exits_with_2_and_keeps_the_finished_run(small_disk):
    finish_run(small_disk / "a", 1)
    code = (
        "import sys; from startup_llm.errors import run_recipe; from startup_llm.run_folder import RunFolder\n"
        "def main():\n"
        "    with RunFolder(sys.argv[1], overwrite=True) as run:\n"
        "        run.write_json('results.json', {'value': 'x' * 1_000_000})\n        run.finish()\n"
        "run_recipe(main)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_disk / "a")], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: no space left on the disk")
    assert done.stderr.count("\n") == 1
    assert read_results(small_disk / "a") == {"value": 1}
    assert os.listdir(small_disk) == ["a"]


def test_folder_without_results_is_no_finished_run(tmp_path):
    with pytest.raises(UserError) as caught:
        read_results(tmp_path / "a")
    assert str(caught.value) == (
        f"no finished run in {tmp_path / 'a'}; expected a folder that recipes/finetune.py made"
    )


def test_results_of_an_interrupted_run_are_asked_for_in_vain(tmp_path):
    interrupt_run(tmp_path / "a")
    with pytest.raises(UserError) as caught:
        read_results(tmp_path / "a")
    assert str(caught.value) == f"no finished run in {tmp_path / 'a'}; it was interrupted: finish it with --resume"
