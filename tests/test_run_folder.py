from __future__ import annotations

import errno
import io
import json
import os
import signal
import stat
import subprocess
import sys
import zipfile
from collections.abc import Callable
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from startup_llm import written_files
from startup_llm.errors import UserError
from startup_llm.run_folder import RunFolder, read_results
from startup_llm.written_files import MARKER, write_atomically


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


@pytest.mark.cold_start
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
        assert os.listdir(run.path) == [MARKER]


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


@pytest.mark.parametrize("target", ["a", "nowhere"])
def test_a_link_to_no_folder_is_refused_before_the_run(target, tmp_path):
    (tmp_path / "a").symlink_to(tmp_path / target)
    assert "is a symbolic link to no folder" in refuse(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]


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


def read_folder(folder: Path) -> dict[str, bytes | str]:
    """Everything below a folder, links by their target."""
    return {
        str(file.relative_to(folder)): os.readlink(file) if file.is_symlink() else file.read_bytes()
        for file in sorted(folder.rglob("*"))
        if file.is_symlink() or file.is_file()
    }


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_of_the_partial_name_that_somebody_else_made_stays(overwrite, resume, tmp_path):
    theirs = tmp_path / "a.partial"
    (theirs / "checkpoints" / "checkpoint-1").mkdir(parents=True)
    (theirs / "checkpoints" / "checkpoint-1" / "trainer_state.json").write_text("{}")
    (theirs / "thesis.tex").write_text("years of work")
    before = read_folder(tmp_path)
    assert "a.partial" in refuse(tmp_path / "a", overwrite=overwrite, resume=resume)
    assert read_folder(tmp_path) == before


def test_a_failing_run_does_not_remove_a_folder_of_the_partial_name(tmp_path):
    (tmp_path / "a.partial").mkdir()
    (tmp_path / "a.partial" / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError), RunFolder(tmp_path / "a", resume=True):
        raise UserError("an unknown column")
    assert (tmp_path / "a.partial" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("place", ["a", "a.partial"])
def test_a_link_in_the_place_of_a_folder_is_not_followed(place, tmp_path):
    finish_run(tmp_path / "elsewhere")
    (tmp_path / place).symlink_to(tmp_path / "elsewhere")
    before = read_folder(tmp_path)
    refuse(tmp_path / "a", overwrite=True)
    assert read_folder(tmp_path) == before


def test_a_folder_with_results_that_this_package_did_not_make_is_not_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "results.json").write_text('{"survey": "answers of ten years"}')
    message = refuse(tmp_path / "a", overwrite=True)
    assert "delete it yourself, or name another --run_dir" in message
    assert (tmp_path / "a" / "results.json").read_text() == '{"survey": "answers of ten years"}'


def test_files_that_were_added_to_a_finished_run_or_changed_there_are_named_and_stay(tmp_path):
    finish_run(tmp_path / "a")
    (tmp_path / "a" / "notes").mkdir()
    (tmp_path / "a" / "notes" / "monday.txt").write_text("what I saw")
    (tmp_path / "a" / "link").symlink_to("/")
    results = (tmp_path / "a" / "results.json").read_text()
    (tmp_path / "a" / "results.json").write_text(results + " ")
    before = read_folder(tmp_path)
    message = refuse(tmp_path / "a", overwrite=True)
    assert "link, notes/monday.txt, results.json; move them away" in message
    assert read_folder(tmp_path) == before


def test_files_that_were_added_while_the_new_run_was_made_are_kept(tmp_path, caplog):
    finish_run(tmp_path / "a", 1)
    with RunFolder(tmp_path / "a", overwrite=True) as run:
        (tmp_path / "a" / "notes.txt").write_text("what I saw")
        run.write_json("results.json", {"value": 2})
        run.finish()
    [kept] = tmp_path.glob("a.kept-*")
    assert (kept / "notes.txt").read_text() == "what I saw"
    assert "notes.txt" in caplog.text
    assert read_results(tmp_path / "a") == {"value": 2}


def test_files_that_were_added_to_an_interrupted_run_are_named_and_stay(tmp_path):
    interrupt_run(tmp_path / "a")
    (tmp_path / "a.partial" / "checkpoints" / "notes.txt").write_text("what I saw")
    assert "checkpoints/notes.txt; move them away" in refuse(tmp_path / "a", overwrite=True)
    assert (tmp_path / "a.partial" / "checkpoints" / "notes.txt").is_file()
    with RunFolder(tmp_path / "a", resume=True) as run:
        run.write_json("results.json", {})
        run.finish()
    assert (tmp_path / "a" / "checkpoints" / "notes.txt").is_file()


def test_a_run_that_somebody_else_made_meanwhile_stays_and_so_does_the_new_one(tmp_path):
    def work() -> None:
        with RunFolder(tmp_path / "a") as run:
            run.write_json("results.json", {"value": 2})
            (tmp_path / "a").mkdir()
            (tmp_path / "a" / "thesis.tex").write_text("years of work")
            run.finish()

    with pytest.raises(UserError, match="the finished run is in"):
        work()
    assert (tmp_path / "a" / "thesis.tex").is_file()
    assert read_results(tmp_path / "a.partial") == {"value": 2}


@dataclass(frozen=True)
class Section:
    train_file: str | list[str] | None = None
    checkpoint: str = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Options:
    data: Section
    run_dir: str = "a"


@pytest.mark.parametrize(
    "section",
    [Section("a/train.csv"), Section(["other.csv", "a/train.csv"]), Section(checkpoint="a/model"), Section("link")],
)
def test_an_input_inside_the_folder_that_is_replaced_is_refused(section, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish_run(Path("a"))
    Path("a/model").mkdir()
    Path("a/train.csv").write_text("text,label\n")
    Path("link").symlink_to("a/train.csv")
    before = read_folder(tmp_path)
    message = refuse(Path("a"), overwrite=True, config=Options(section))
    assert message.startswith("data.")
    assert "lies inside what is to be written" in message
    assert read_folder(tmp_path) == before


def test_an_input_outside_is_none_of_the_folders_business(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    finish_run(Path("a"))
    Path("train.csv").write_text("text,label\n")
    with RunFolder("a", overwrite=True, config=Options(Section("train.csv"))):
        pass


@pytest.mark.parametrize("kind", ["file", "empty file", "link", "pipe", "folder"])
def test_what_stands_in_the_place_of_the_lock_stays(kind, tmp_path):
    lock, target = tmp_path / ".a.lock", tmp_path / "target.txt"
    target.write_text("years of work")
    if kind == "link":
        lock.symlink_to(target)
    elif kind == "pipe":
        os.mkfifo(lock)
    elif kind == "folder":
        lock.mkdir()
    else:
        lock.write_text("mine" * (kind == "file"))
    before = (lock.lstat().st_ino, lock.lstat().st_size, target.read_text())
    if kind in ("file", "empty file"):
        finish_run(tmp_path / "a")
    else:
        assert "is needed as a lock, but" in refuse(tmp_path / "a")
    assert (lock.lstat().st_ino, lock.lstat().st_size, target.read_text()) == before


def test_a_link_in_the_place_of_a_written_file_is_replaced_not_followed(tmp_path):
    (tmp_path / "mine.txt").write_text("years of work")
    (tmp_path / "a.txt").symlink_to(tmp_path / "mine.txt")
    write_atomically(tmp_path / "a.txt", "new")
    assert (tmp_path / "mine.txt").read_text() == "years of work"
    assert (tmp_path / "a.txt").read_text() == "new"


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_files_of_a_finished_run_have_the_umasks_mode(umask, mode, tmp_path):
    before = os.umask(umask)
    try:
        with RunFolder(tmp_path / "a") as run:
            run.model.mkdir()
            private = os.open(run.model / "model.safetensors", os.O_CREAT | os.O_WRONLY, 0o600)
            os.close(private)
            run.write_json("results.json", {})
            run.finish()
    finally:
        os.umask(before)
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "a").rglob("*") if file.is_file()}
    assert modes == dict.fromkeys(("model.safetensors", "results.json", MARKER), mode)


CHANGES = (
    "os.rename",
    "os.remove",
    "os.rmdir",
    "os.mkdir",
    "os.chmod",
    "os.truncate",
    "ctypes.dlsym",
    "shutil.rmtree",
)


def kill_at_change(number: int, action: Callable[[], None]) -> bool:
    """Do something in a forked child that is killed before its so-many-th change to a folder; say whether it was."""
    child = os.fork()
    if not child:
        left = [number]

        def count(event: str, arguments: tuple) -> None:
            if event in CHANGES or (event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
                left[0] -= 1
                if left[0] < 0:
                    os._exit(9)

        sys.addaudithook(count)
        try:
            action()
        except BaseException:
            os._exit(1)
        os._exit(0)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code in (0, 9)
    return code == 9


@pytest.mark.slow
@pytest.mark.parametrize("can_exchange", [True, False])
@pytest.mark.parametrize("overwrite_again", [True, False])
def test_a_kill_at_any_moment_of_a_replacement_leaves_a_finished_run(
    can_exchange, overwrite_again, tmp_path, monkeypatch
):
    """With exchange there is one at every moment; without it, the next start gives it its name back."""
    if not can_exchange:
        monkeypatch.setattr("startup_llm.run_folder.exchange_folders", lambda *_: False)
    for number in range(200):
        folder = tmp_path / str(number)
        folder.mkdir()
        finish_run(folder / "a", 1)
        killed = kill_at_change(number, lambda folder=folder: finish_run(folder / "a", 2, overwrite=True))
        if can_exchange or (folder / "a").exists():
            assert read_results(folder / "a")["value"] in (1, 2)
        if overwrite_again:
            finish_run(folder / "a", 3, overwrite=True)
            assert read_results(folder / "a") == {"value": 3}
            assert os.listdir(folder) == ["a"]
        else:
            assert "is finished" in refuse(folder / "a")
            assert read_results(folder / "a")["value"] in (1, 2)
        if not killed:
            break
    assert not killed
    assert number > 8


@pytest.mark.slow
def test_a_kill_at_any_moment_of_a_first_run_leaves_nothing_in_the_way(tmp_path):
    for number in range(200):
        folder = tmp_path / str(number)
        folder.mkdir()
        killed = kill_at_change(number, lambda folder=folder: finish_run(folder / "a", 2))
        with suppress(UserError):  # it was killed after it was finished
            finish_run(folder / "a", 3)
        assert read_results(folder / "a")["value"] in (2, 3)
        assert os.listdir(folder) == ["a"]
        if not killed:
            break
    assert not killed


def test_swapping_folders_works_here():
    """Else the tests above would not see it."""
    folder = Path(os.environ.get("TMPDIR", "/tmp")) / f"swap-{os.getpid()}"
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        (folder / name / name).write_text("")
    swapped = written_files.exchange_folders(folder / "a", folder / "b")
    found = os.listdir(folder / "a")
    for name in ("a", "b"):
        for file in (folder / name).iterdir():
            file.unlink()
        (folder / name).rmdir()
    folder.rmdir()
    assert (swapped, found) == (True, ["b"])


@pytest.mark.parametrize("kibibytes", range(4, 56, 4))
def test_a_disk_that_gets_full_at_any_moment_keeps_the_finished_run(kibibytes, small_disk):
    finish_run(small_disk / "a", 1)
    (small_disk / "filler").write_bytes(b"x" * 1024 * kibibytes)
    with suppress(OSError), RunFolder(small_disk / "a", overwrite=True) as run:
        (run.path / "checkpoints").mkdir()
        run.write_text("report.html", "x" * 9000)
        run.write_json("results.json", {"value": 2})
        run.finish()
    assert read_results(small_disk / "a")["value"] in (1, 2)
    (small_disk / "filler").unlink()
    finish_run(small_disk / "a", 3, overwrite=True)
    assert os.listdir(small_disk) == ["a"]


def _let_sigint_through() -> None:
    """Undo that a shell's background jobs ignore SIGINT, which their children inherit."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("steps", [0, 2])
def test_a_signal_says_how_to_go_on_and_leaves_no_lock(number, code, steps, tmp_path):
    script = (
        "import sys, time; from startup_llm.errors import run_recipe; from startup_llm.run_folder import RunFolder\n"
        "def main():\n"
        "    with RunFolder(sys.argv[1]) as run:\n"
        "        for step in range(int(sys.argv[2])):\n"
        "            (run.checkpoints / f'checkpoint-{step}').mkdir(parents=True)\n"
        "            (run.checkpoints / f'checkpoint-{step}' / 'trainer_state.json').write_text('{}')\n"
        "        print('ready', flush=True); time.sleep(60)\n"
        "run_recipe(main)\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a"), str(steps)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, preexec_fn=_let_sigint_through
    ) as process:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        err = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert os.listdir(tmp_path) == (["a.partial"] if steps else [])
    if steps:
        assert err == f"error: stopped by a signal; go on with run {tmp_path / 'a'} by --resume\n"
    else:
        assert err == "error: stopped by a signal\n"


def write_checkpoint(folder: Path) -> dict[str, bytes]:
    """Write the kinds of files that a trainer's checkpoint has, and return them."""
    header = json.dumps({"weight": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}).encode()
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 100)
    files = {
        "model.safetensors": len(header).to_bytes(8, "little") + header + b"\0" * 16,
        "optimizer.pt": zipped.getvalue(),
        "rng_state.pth": zipped.getvalue(),
        "training_args.bin": zipped.getvalue(),
        "trainer_state.json": b'{"epoch": 1.0}',
    }
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return files


@pytest.mark.parametrize(
    "name", ["model.safetensors", "optimizer.pt", "rng_state.pth", "training_args.bin", "trainer_state.json"]
)
@pytest.mark.parametrize("share", [0, 0.1, 0.5, 0.99])
def test_a_checkpoint_with_a_file_that_was_cut_is_passed_over_for_the_one_before(name, share, tmp_path):
    with suppress(KeyboardInterrupt), RunFolder(tmp_path / "a") as run:
        for step in (2, 4):
            files = write_checkpoint(run.checkpoints / f"checkpoint-{step}")
        raise KeyboardInterrupt
    place = tmp_path / "a.partial" / "checkpoints"
    (place / "checkpoint-elsewhere").mkdir()
    with RunFolder(tmp_path / "a", resume=True) as run:
        assert run.last_checkpoint() == run.checkpoints / "checkpoint-4"
        (place / "checkpoint-4" / name).write_bytes(files[name][: int(share * len(files[name]))])
        assert run.last_checkpoint() == run.checkpoints / "checkpoint-2"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "expected a JSON object"),
        ("[" * 100_000, "nested too deeply"),
        ('{"seconds": ' + "1" * 5000 + "}", "is no JSON file"),
        ('{"task": ["text-classification"]}', "task: expected str"),
        ('{"config": {"data": []}}', r"config\.data: expected dict"),
        ('{"models": {"lora": [0.5]}}', r"models\.lora\.: expected a score"),
        ('{"labels": "ab"}', "labels: expected list"),
        ('{"seconds": true}', "seconds: expected int or float"),
    ],
)
def test_results_of_another_form_are_refused(content, words, tmp_path):
    (tmp_path / "results.json").write_text(content)
    with pytest.raises(UserError, match=words):
        read_results(tmp_path)
