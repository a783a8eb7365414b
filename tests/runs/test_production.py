import json
import multiprocessing
import os
import re
from pathlib import Path

import pytest

from startup_llm.errors import UserError
from startup_llm.run_folder import choose_run_dir, follow_link
from startup_llm.runs import production
from startup_llm.runs.listing import list_runs
from startup_llm.runs.production import Production


def make_run(
    folder: Path, name: str, value: float = 0.9, sha256: str = "a" * 64, checkpoint: str = "owner/base"
) -> Path:
    run = folder / name
    (run / "model").mkdir(parents=True)
    (run / "model" / "config.json").write_text("{}")
    (run / "report.html").write_text("<p>report</p>")
    results = {
        "task": "text-classification",
        "method": "lora",
        "decides": "accuracy",
        "models": {"lora": {"accuracy": {"value": value, "low": value - 0.05, "high": value + 0.05}}},
        "test": {"rows": 1234, "sha256": "b" * 64},
        "checkpoint": {"name": checkpoint},
        "data": {"sources": [{"split": "train", "files": [{"path": "tickets.csv", "sha256": sha256}]}]},
    }
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_a_switch_and_its_way_back_leave_a_history(tmp_path):
    for name in "abc":
        make_run(tmp_path, name)
    switcher = Production(tmp_path)
    for name in "abc":
        assert switcher.name(tmp_path / name).run == name
    assert switcher.name(tmp_path / "c") == switcher.read_history()[-1]  # it is there already
    assert [switcher.roll_back().run, switcher.roll_back().run] == ["b", "a"]
    assert follow_link(tmp_path / "production") == tmp_path / "a"
    with pytest.raises(UserError, match="before a no run was in production"):
        switcher.roll_back()
    history = [(switch.run, switch.how, switch.before) for switch in switcher.read_history()]
    assert history == [
        ("a", "named", None), ("b", "named", "a"), ("c", "named", "b"), ("b", "rollback", "c"), ("a", "rollback", "b"),
    ]  # fmt: skip
    switcher.name(tmp_path / "c")
    assert switcher.roll_back().run == "a"


@pytest.mark.parametrize("dies_in", ["symlink_to", "replace", "write_atomically"])
def test_a_killed_switch_leaves_the_old_or_the_new_run_and_the_next_one_finds_its_way(tmp_path, monkeypatch, dies_in):
    for name in "abc":
        make_run(tmp_path, name)
    switcher = Production(tmp_path)
    switcher.name(tmp_path / "a")

    def die(*_, **__):
        raise KeyboardInterrupt

    owner = {"symlink_to": Path, "replace": os, "write_atomically": production}[dies_in]
    with monkeypatch.context() as patch:
        patch.setattr(owner, dies_in, die)
        with pytest.raises(KeyboardInterrupt):
            switcher.name(tmp_path / "b")
    left = "b" if dies_in == "write_atomically" else "a"
    assert switcher.current == left
    assert switcher.read_history()[-1].run == left
    switcher.name(tmp_path / "c")
    assert switcher.roll_back().run == left
    assert not list(tmp_path.glob(".production-link-*"))


def switch_often(folder: Path, name: str, start) -> None:
    start.wait()
    for _ in range(20):
        Production(folder).name(folder / name)


def test_switches_at_once_leave_a_whole_link_and_every_one_of_them_in_the_history(tmp_path):
    names = ["a", "b", "c"]
    for name in names:
        make_run(tmp_path, name)
    context = multiprocessing.get_context("fork")
    start = context.Event()
    processes = [context.Process(target=switch_often, args=(tmp_path, name, start)) for name in names]
    for process in processes:
        process.start()
    start.set()
    seen = set()
    while any(process.is_alive() for process in processes):
        if (tmp_path / "production").is_symlink():
            seen.add(os.readlink(tmp_path / "production"))
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert seen <= set(names)
    history = Production(tmp_path).read_history()
    assert [switch.before for switch in history[1:]] == [switch.run for switch in history[:-1]]
    assert "found" not in [switch.how for switch in history]
    assert history[-1].run == Production(tmp_path).current


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--production", "{runs}/none"], "no finished run in {runs}/none"),
        (["--production", "{runs}/a/model"], None),
        (["--production", "{runs}/empty"], "the run {runs}/empty has no model in"),
        (["--rollback"], "no run was in production yet"),
        (["--rollback", "--production", "{runs}/a"], "both name a run"),
        (["--folder", "{runs}/none"], "no such folder: {runs}/none"),
        (["--folder", "{runs}/a"], "holds no finished run"),
    ],
)
def test_bad_names_are_one_line_and_change_nothing(run_recipe, tmp_path, words, message):
    make_run(tmp_path, "a")
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "results.json").write_text('{"entries": []}')
    code, _, err = run_recipe("runs", "--folder", tmp_path, *(word.format(runs=tmp_path) for word in words))
    if message is None:  # the model of a run stands for the run
        assert (code, os.readlink(tmp_path / "production")) == (0, "a"), err
        return
    assert (code, err.count("\n")) == (2, 1)
    assert message.format(runs=tmp_path) in err
    assert not (tmp_path / "production").exists()


def test_runs_are_listed_with_figures_data_and_origin_on_the_console_and_a_page(run_recipe, tmp_path):
    first = make_run(tmp_path, "helpdesk-lora", 0.9)
    second = make_run(tmp_path, "next <week>", 0.95, "c" * 64, checkpoint=str(first / "model"))
    entry = {
        "name": "week-48",
        "rows": 50,
        "sha256": "d" * 64,
        "metrics": {"accuracy": {"value": 0.8, "low": 0.7, "high": 0.9}},
    }
    evaluation = {"model": str(first), "entries": [entry], "failed": ["week-48: accuracy 0.8 is under 0.9"]}
    (tmp_path / "on-week").mkdir()
    (tmp_path / "on-week" / "results.json").write_text(json.dumps(evaluation))
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "results.json").write_text("{")
    (tmp_path / "half.partial").mkdir()
    for age, folder in enumerate((second, tmp_path / "on-week", first)):
        os.utime(folder / "results.json", (1_790_000_000 - age, 1_790_000_000 - age))
    code, out, err = run_recipe("runs", "--folder", tmp_path, "--production", first)
    assert code == 0, err
    lines = out.splitlines()
    place = next(number for number, line in enumerate(lines) if line.split()[:2] == ["run", "made"])
    table = lines[place + 1 : place + 4]
    assert [line.split()[0] for line in table] == ["next", "on-week", "helpdesk-lora"]
    assert "accuracy 95.0 % (90.0 to 100.0)" in table[0]
    assert table[0].split()[-1] == "helpdesk-lora"  # what it was trained from
    assert "evaluation on week-48" in table[1]
    assert "helpdesk-lora *" in table[2]
    assert table[2].split()[-1] == "owner/base"
    listed = list_runs(tmp_path)
    assert len({run.data for run in listed.runs}) == 3
    assert "unfinished: half" in out
    assert "cannot be read: broken: " in out
    page = (tmp_path / "index.html").read_text()
    assert 'href="next%20%3Cweek%3E/report.html"' in page
    assert "next &lt;week&gt;" in page
    assert "week-48: accuracy 0.8 is under 0.9" in page
    assert not re.search(r'(src|href)="https?:', page)
    assert run_recipe("runs", "--folder", tmp_path)[0] == 0  # its own page is written anew
    (tmp_path / "index.html").write_text("mine")
    code, _, err = run_recipe("runs", "--folder", tmp_path)
    assert (code, "index.html was not written by this recipe" in err) == (2, True)


def test_a_run_is_named_by_its_date_and_a_number_and_the_latest_unfinished_one_is_resumed(tmp_path, monkeypatch):
    name = str(tmp_path / "runs" / "helpdesk-lora")
    chosen = [choose_run_dir(name) for _ in range(3)]
    day = chosen[0].name.removeprefix("helpdesk-lora-")
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day)
    assert [path.name for path in chosen] == [f"helpdesk-lora-{day}{end}" for end in ("", "-2", "-3")]
    os.utime(tmp_path / "runs" / f"{chosen[1].name}.partial", (2e9, 2e9))
    assert choose_run_dir(name, resume=True) == chosen[1]
    assert choose_run_dir(f"{name}-x", resume=True).name == f"helpdesk-lora-x-{day}"
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="each of several processes would choose a name; give one: --run_dir"):
        choose_run_dir(name)
