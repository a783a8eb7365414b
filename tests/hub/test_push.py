"""Publishing over real HTTP with the real client, against a hub on 127.0.0.1."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx2
import numpy as np
import pytest
from hub.test_model_card import RESULTS
from huggingface_hub import HfApi, constants, metadata_load, snapshot_download
from loopback_hub import TOKEN, Answer, LoopbackHub
from safetensors.numpy import save

from startup_llm.config import PushConfig
from startup_llm.errors import UserError
from startup_llm.hub.push import preview as preview_publication
from startup_llm.hub.push import push as publish

ROOT = Path(__file__).parents[2]
CARDS = ROOT / "data_cards"
CLIENT_S_OWN = "ignore:Use 'content=<...>':DeprecationWarning"
"""A warning from one library of the client to another, which nobody else can heed and Python does not show."""
BOTH = {
    "README.md",
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
    "config.json",
    "config.yaml",
    "model.safetensors",
    "results.json",
    "tokenizer.json",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run with tiny weights, local paths in every file that can hold one, and texts of the data."""
    run = tmp_path / "home" / "helpdesk-lora"
    home = str(run.parent)
    (run / "model").mkdir(parents=True)
    (run / "adapter").mkdir()
    (run / "checkpoints").mkdir()
    results = RESULTS | {
        "command": f"accelerate launch recipes/finetune.py --run_dir '{home}/my runs/x'",
        "config": {"run_dir": str(run), "data": {"train_file": [f"{home}/train.csv"]}, "train": {"seed": 1}},
    }
    (run / "results.json").write_text(json.dumps(results))
    (run / "config.yaml").write_text(f"run_dir: {run}\ndata:\n  train_file:\n  - {home}/my data/train.csv\n")
    (run / "README.md").write_text(f"made in {home}")
    (run / "report.html").write_text(f"made in {home}")
    (run / "predictions.jsonl").write_text("{}")
    (run / "model" / "config.json").write_text('{"model_type": "bert"}')
    (run / "model" / "tokenizer.json").write_text('{"vocab": {"/home": 1}}')
    (run / "model" / "model.safetensors").write_bytes(build_weights(0))
    (run / "adapter" / "adapter_config.json").write_text(
        json.dumps({"base_model_name_or_path": f"{home}/bert", "r": 4})
    )
    (run / "adapter" / "adapter_model.safetensors").write_bytes(random.Random(1).randbytes(3000))
    (run / "adapter" / "README.md").write_text(f"base_model: {home}")
    (run / "adapter" / "training_args.bin").write_bytes(b"pickle")
    return run


LOCK = {"working_folder": "../..", "config_sha256": "0", "data": [], "checkpoint": {"name": "/home/me/base"}}


@pytest.fixture
def push(hub: LoopbackHub, run: Path) -> Callable:
    """Publish the run from this process."""
    return lambda repo="me/mine", **options: publish(PushConfig(repo, str(run), **options), CARDS, hub.url)


def build_weights(seed: int) -> bytes:
    """Return a file of 5,000 bytes: 72 of safetensors' header, and a tensor."""
    return save({"weight": np.frombuffer(random.Random(seed).randbytes(4928), np.uint8)})


def train_again(run: Path, seed: int) -> None:
    """Give the run other weights and another number."""
    (run / "model" / "model.safetensors").write_bytes(build_weights(seed))
    results = json.loads((run / "results.json").read_text())
    results["models"]["lora"]["accuracy"]["value"] = seed / 1000
    (run / "results.json").write_text(json.dumps(results))


def recipe(hub: LoopbackHub, run: Path | str, *options: str, **environment: str) -> subprocess.CompletedProcess:
    """Run recipes/push.py as a person does; a warning of the client is an error."""
    home = {"HF_HOME": str(hub.folder.parent / "hf"), "HF_ENDPOINT": hub.url, "HF_TOKEN": TOKEN}
    quiet = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    command = [
        sys.executable,
        "-W",
        "error",
        "-W",
        CLIENT_S_OWN,
        ROOT / "recipes" / "push.py",
        "--run",
        run,
        "--repo",
        "me/mine",
    ]
    return subprocess.run(
        [*map(str, command), *options],
        env={**os.environ, "OMP_NUM_THREADS": "1", **home, **quiet, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def files_below(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_what_is_pushed_is_what_the_client_pulls_at_that_revision(hub, run, push, tmp_path):
    first = push()
    train_again(run, 7)
    second = push()
    assert second.changed == ["README.md", "model.safetensors", "results.json"]
    for made, seed in ((first, 0), (second, 7)):
        pulled = snapshot_download(
            "me/mine", revision=made.commit, endpoint=hub.url, local_dir=tmp_path / made.commit, token=TOKEN
        )
        files = {path: content for path, content in files_below(Path(pulled)).items() if ".cache" not in path}
        assert files.pop(".gitattributes")
        assert files == hub.files("me/mine", made.commit)
        assert set(files) == BOTH
        assert files["model.safetensors"] == build_weights(seed)
    assert hub.history("me/mine")[:2] == [second.commit, first.commit]
    assert hub.is_private("me/mine")


def test_a_second_push_of_the_same_run_sends_nothing(hub, push):
    first = push()
    hub.requests.clear()
    again = push()
    assert (again.changed, again.url, again.commit) == ([], None, first.commit)
    assert {method for method, _ in hub.requests} == {"GET", "HEAD"}


def test_a_repository_is_public_only_where_that_is_asked_for(hub, run, push):
    push(public=True)
    assert not hub.is_private("me/mine")
    train_again(run, 7)
    with pytest.raises(UserError, match="me/mine is public: everybody would see this run; say so with --public"):
        push()
    assert len(hub.history("me/mine")) == 2
    push("me/quiet")
    train_again(run, 8)
    assert push("me/quiet", public=True).notes == [
        "me/quiet is private and stays so; its settings page makes it public"
    ]


def test_no_local_path_no_text_of_the_data_and_no_pickle_is_published(hub, run, push):
    push()
    files = hub.files("me/mine")
    everything = b"".join(files.values())
    assert str(run.parent).encode() not in everything
    assert b"my data" not in everything
    assert b"secret" not in everything
    assert files["config.yaml"] == b"run_dir: helpdesk-lora\ndata:\n  train_file:\n  - train.csv\n"
    assert json.loads(files["adapter/adapter_config.json"]) == {"base_model_name_or_path": "bert", "r": 4}
    assert files["tokenizer.json"] == (run / "model" / "tokenizer.json").read_bytes()


def test_the_report_and_the_examples_are_published_only_where_that_is_asked_for(hub, run, push):
    push(with_report=True)
    files = hub.files("me/mine")
    assert set(files) == BOTH | {"report.html"}
    assert b"my secret text" in files["results.json"]
    assert str(run.parent).encode() not in b"".join(files.values())
    push()
    assert set(hub.files("me/mine")) == BOTH


def test_the_layout_follows_what_is_published_and_only_our_own_leftovers_go(hub, push):
    push()
    hub.commit("me/mine", {"picture.png": b"by a person", "adapter/notes.txt": b"by a person"})
    adapter = push(what="adapter")
    files = hub.files("me/mine")
    theirs = {"picture.png", "adapter/notes.txt"}
    assert set(files) == theirs | {
        "README.md", "adapter_config.json", "adapter_model.safetensors", "config.yaml", "results.json"
    }  # fmt: skip
    assert "model.safetensors" in adapter.removed
    assert b'PeftModel.from_pretrained(base, "me/mine")' in files["README.md"]
    push(what="merged")
    assert set(hub.files("me/mine")) == theirs | {path for path in BOTH if not path.startswith("adapter/")}


def test_a_leftover_that_a_person_changed_or_took_away_is_let_be(hub, push):
    push()
    hub.commit("me/mine", {"config.json": b"a person's", "adapter/adapter_config.json": None})
    removed = {"model.safetensors", "tokenizer.json", "adapter/adapter_model.safetensors"}
    assert set(push(what="adapter").removed) == removed
    assert hub.files("me/mine")["config.json"] == b"a person's"


def test_a_run_without_an_adapter_publishes_the_model_and_says_so_where_the_adapter_is_asked_for(hub, run, push):
    for file in (run / "adapter").iterdir():
        file.unlink()
    (run / "adapter").rmdir()
    push()
    assert set(hub.files("me/mine")) == {path for path in BOTH if not path.startswith("adapter/")}
    with pytest.raises(UserError, match="this run has no adapter to publish; try --what merged"):
        push(what="adapter")


def test_a_branch_is_made_and_main_stays(hub, run, push):
    first = push()
    train_again(run, 7)
    on_branch = push(branch="try-7")
    assert hub.refs("me/mine") == {"main": first.commit, "try-7": on_branch.commit}
    train_again(run, 8)
    assert push(branch="try-7").commit == hub.refs("me/mine")["try-7"]
    assert hub.refs("me/mine")["main"] == first.commit
    assert push("me/new", branch="try-8").commit == hub.refs("me/new")["try-8"]
    assert set(hub.files("me/new", "main")) == set()


def test_a_pull_request_leaves_main_and_is_made_once(hub, run, push):
    first = push()
    train_again(run, 7)
    proposal = push(pull_request=True)
    assert proposal.url == f"{hub.url}/me/mine/discussions/1"
    assert push(pull_request=True).url == proposal.url
    assert hub.refs("me/mine") == {"main": first.commit, "refs/pr/1": proposal.commit}
    assert hub.files("me/mine", "refs/pr/1")["model.safetensors"] == build_weights(7)
    with pytest.raises(UserError, match="no repository me/none to send a pull request to"):
        push("me/none", pull_request=True)


def test_somebody_without_rights_can_still_propose(hub, run, push, monkeypatch):
    push(public=True)
    train_again(run, 7)
    monkeypatch.setenv("HF_TOKEN", "hf_otherOTHERother1234567890")
    assert push(public=True, pull_request=True).url.endswith("/discussions/1")
    with pytest.raises(UserError, match="your token may not write to me/mine"):
        push(public=True)


def test_what_a_person_wrote_on_the_card_survives(hub, run, push):
    push()
    card = hub.files("me/mine")["README.md"].decode()
    edited = (
        card.replace("license: apache-2.0", "license: mit  # we asked").replace("# helpdesk", "# helpdesk")
        + "\nCall me.\n"
    )
    hub.commit("me/mine", {"README.md": edited.encode()})
    train_again(run, 123)
    push()
    merged = hub.files("me/mine")["README.md"].decode()
    assert merged.endswith("Call me.\n")
    assert "license: mit  # we asked\n" in merged
    assert "12.3 %" in merged
    assert "90.8 %" not in merged


def test_a_card_that_cannot_be_merged_is_left_alone_and_can_be_proposed(hub, run, push):
    push()
    card = hub.files("me/mine")["README.md"].replace(b"It is significantly better", b"It is clearly better")
    edit = hub.commit("me/mine", {"README.md": card})
    train_again(run, 123)
    with pytest.raises(
        UserError, match="the card of me/mine cannot be merged: its generated text was changed by hand"
    ):
        push()
    assert hub.refs("me/mine")["main"] == edit
    push(pull_request=True)
    assert hub.refs("me/mine")["main"] == edit
    assert b"12.3 %" in hub.files("me/mine", "refs/pr/1")["README.md"]


def test_a_person_s_own_repository_is_not_overwritten(hub, push):
    theirs = {"README.md": b"# My words\n", "config.json": b"{}", "model.safetensors": b"other weights"}
    before = hub.create("me/mine", files=theirs)
    with pytest.raises(UserError, match=r"did not write: config\.json, model\.safetensors"):
        push()
    assert hub.refs("me/mine")["main"] == before
    push(overwrite=True)
    assert hub.files("me/mine")["README.md"].startswith(b"---\n")
    assert b"# My words" in hub.files("me/mine")["README.md"]


def test_a_file_that_a_person_replaced_since_our_last_push_is_not_overwritten(hub, run, push):
    push()
    edit = hub.commit("me/mine", {"model.safetensors": b"better weights"})
    train_again(run, 7)
    with pytest.raises(UserError, match=r"did not write: model\.safetensors"):
        push()
    assert hub.refs("me/mine")["main"] == edit


def test_an_edit_during_the_push_is_merged_not_overwritten(hub, run, push):
    push()
    card = hub.files("me/mine")["README.md"]

    def edit() -> None:
        hub.before_commit = None
        hub.commit("me/mine", {"README.md": card + b"\nCall me.\n", "notes.txt": b"mine"})

    hub.before_commit = edit
    train_again(run, 123)
    push()
    files = hub.files("me/mine")
    assert files["README.md"].endswith(b"Call me.\n")
    assert b"12.3 %" in files["README.md"]
    assert files["notes.txt"] == b"mine"


def test_edits_that_do_not_stop_end_in_an_error_and_nothing_of_them_is_lost(hub, run, push):
    push()
    edits = iter(range(100))
    hub.before_commit = lambda: hub.commit("me/mine", {"notes.txt": b"%d" % next(edits)})
    train_again(run, 7)
    with pytest.raises(UserError, match="me/mine was changed by somebody else 3 times during this push"):
        push()
    assert hub.files("me/mine")["notes.txt"] == b"2"
    assert hub.files("me/mine")["model.safetensors"] == build_weights(0)


def test_a_dry_run_writes_what_a_push_sends_byte_for_byte(hub, run, push, tmp_path):
    def preview(name: str) -> dict[str, bytes]:
        shown = preview_publication(
            PushConfig("me/mine", str(run), dry_run=str(tmp_path / name), with_report=True), CARDS, hub.url
        )
        files = files_below(tmp_path / name)
        assert {path: len(content) for path, content in files.items()} == shown.files
        return files

    new = preview("new")
    assert not hub.exists("me/mine")
    push(with_report=True)
    assert new == hub.files("me/mine")
    hub.commit("me/mine", {"README.md": hub.files("me/mine")["README.md"] + b"\nCall me.\n"})
    train_again(run, 7)
    before = hub.refs("me/mine")
    renewed = preview("renewed")
    assert hub.refs("me/mine") == before
    push(with_report=True)
    assert renewed == hub.files("me/mine")
    with pytest.raises(UserError, match="new exists; name a folder that does not exist yet"):
        preview("new")


def test_a_dry_run_needs_neither_token_nor_network(hub, run, tmp_path, monkeypatch):
    config = PushConfig("me/mine", str(run), dry_run=str(tmp_path / "a"))
    assert "the Hub could not be reached" in preview_publication(config, CARDS, "http://127.0.0.1:9").notes[-1]
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "none"))
    config = PushConfig("me/mine", str(run), dry_run=str(tmp_path / "b"))
    assert "was not read (no token)" in preview_publication(config, CARDS, hub.url).notes[-1]
    assert files_below(tmp_path / "a") == files_below(tmp_path / "b")
    assert hub.requests == []


def test_a_licence_that_was_chosen_is_declared_and_a_bad_one_refused(hub, push, tmp_path):
    push(license="MIT")
    (tmp_path / "README.md").write_bytes(hub.files("me/mine")["README.md"])
    assert metadata_load(tmp_path / "README.md")["license"] == "mit"
    with pytest.raises(UserError, match=r"bad license 'my own': expected an identifier such as apache-2\.0"):
        push(license="my own")


@pytest.mark.parametrize(
    ("repo", "words"),
    [
        ("mine", "bad repo 'mine': expected OWNER/NAME, such as my-account/mine"),
        ("a/b/c", "bad repo 'a/b/c': expected OWNER/NAME"),
        ("me/my model", "bad repo 'me/my model': expected OWNER/NAME"),
        ("me/x--y", "bad repo 'me/x--y': expected OWNER/NAME"),
        ("other/thing", "your token may not write to other/thing .*or a repository of your own instead of other's"),
        ("me/gone", "the name me/gone is taken .*; name another --repo"),
    ],
)
def test_a_repository_that_cannot_be_made_is_an_error_that_names_it(hub, push, repo, words):
    hub.taken.add("me/gone")
    with pytest.raises(UserError, match=words):
        push(repo)


@pytest.mark.parametrize("status", [403, 413, 507])
def test_a_full_storage_is_an_error_and_the_repository_stays_as_it_was(hub, run, push, status):
    first = push()
    train_again(run, 7)
    hub.quota_bytes, hub.quota_status = 10_000, status
    with pytest.raises(UserError, match=r"the storage of me is full \(.*limit reached.*\); free some"):
        push()
    assert hub.refs("me/mine")["main"] == first.commit
    hub.quota_bytes = None
    push()
    assert hub.files("me/mine")["model.safetensors"] == build_weights(7)


def test_a_token_in_a_file_of_the_run_is_found_before_anything_is_sent(hub, run, push):
    (run / "model" / "config.json").write_text(json.dumps({"note": TOKEN}))
    with pytest.raises(UserError, match=r"config\.json of the run .* holds your access token"):
        push()
    assert hub.requests == []


def test_a_token_that_the_hub_s_answer_repeats_is_not_shown(hub, push):
    def refuse() -> None:
        raise Answer(400, {"error": f"bad header Bearer {TOKEN} and hf_another1234567890"})

    hub.before_commit = refuse
    with pytest.raises(UserError, match=r"the Hub refuses this push to me/mine \(answer 400: .*bad header") as refused:
        push()
    assert "hf_o" not in str(refused.value)
    assert "hf_another" not in str(refused.value)


def test_no_network_is_an_error(hub, run):
    with pytest.raises(UserError, match=r"the connection to the Hub failed .*push again: it goes on where it was"):
        publish(PushConfig("me/mine", str(run)), CARDS, "http://127.0.0.1:9")


@pytest.mark.slow
@pytest.mark.parametrize("cuts", [25, 100])
def test_cut_connections_leave_the_old_state_or_the_new_and_the_next_push_completes(cuts, hub, run, push):
    draw = random.Random(0)
    push()
    train_again(run, 1)
    start = hub.bytes_moved
    push()
    length = hub.bytes_moved - start
    outcomes, said = {"old": 0, "new": 0}, []
    for number in range(2, 2 + cuts):
        repo = "me/mine" if number % 5 else f"me/mine-{number}"
        old = hub.files(repo) if hub.exists(repo) else {}
        train_again(run, number)
        hub.cut_after(draw.randrange(length), stays_down=number % 2 == 0)
        try:
            push(repo)
        except UserError as error:
            said.append(str(error))
        hub.heal()
        state = hub.files(repo) if hub.exists(repo) else {}
        push(repo)
        new = hub.files(repo)
        assert new["model.safetensors"] == build_weights(number)
        assert state in (old, new)
        outcomes["old" if state == old else "new"] += 1
    assert hub.cut_count >= cuts
    assert min(*outcomes.values(), len(said)) > cuts // 10
    assert TOKEN not in " ".join(said)


def test_a_pull_request_whose_answer_is_lost_is_not_made_twice(hub, run, push):
    push()
    for seed in range(2, 12):
        train_again(run, seed)
        hub.before_commit = lambda: hub.cut_after(20, stays_down=False)
        with pytest.raises(UserError, match="the connection to the Hub failed"):
            push(pull_request=True)
        hub.before_commit = None
        assert push(pull_request=True).url.endswith(f"/discussions/{seed - 1}")
        assert len(hub.pulls("me/mine")) == seed - 1


def test_large_files_that_arrived_before_the_cut_are_not_sent_again(hub, run, push):
    first = push()
    train_again(run, 7)

    def hang_up() -> None:
        raise ConnectionResetError

    hub.uploads.clear()
    hub.before_commit = hang_up
    with pytest.raises(UserError, match="the connection to the Hub failed"):
        push()
    assert len(hub.uploads) == 1
    assert hub.refs("me/mine")["main"] == first.commit
    hub.before_commit = None
    push()
    assert len(hub.uploads) == 1
    assert hub.files("me/mine")["model.safetensors"] == build_weights(7)


def test_a_commit_whose_answer_is_lost_is_found_by_the_next_push(hub, run, push):
    push()
    train_again(run, 7)
    hub.before_commit = lambda: hub.cut_after(20, stays_down=True)
    with pytest.raises(UserError, match="the connection to the Hub failed"):
        push()
    hub.heal()
    assert hub.files("me/mine")["model.safetensors"] == build_weights(7)
    again = push()
    assert (again.changed, again.commit) == ([], hub.refs("me/mine")["main"])
    assert len(hub.history("me/mine")) == 3


def test_the_recipe_publishes_without_a_warning_and_the_token_is_nowhere(hub, run, tmp_path):
    shown = recipe(hub, run, "--dry_run", str(tmp_path / "dry"))
    assert (shown.returncode, shown.stderr) == (0, "")
    assert "5,000 bytes  model.safetensors\n" in shown.stdout
    assert "nothing was sent to me/mine" in shown.stdout
    pushed = recipe(hub, run)
    assert (pushed.returncode, pushed.stderr) == (0, "")
    assert pushed.stdout.endswith(f"published: {hub.url}/me/mine/commit/{hub.refs('me/mine')['main']}\n")
    assert files_below(tmp_path / "dry") == hub.files("me/mine")
    assert TOKEN not in shown.stdout + pushed.stdout
    assert [path for path, content in files_below(tmp_path).items() if TOKEN.encode() in content] == []


@pytest.mark.parametrize(
    ("options", "environment", "words"),
    [
        ([], {"HF_TOKEN": ""}, "no access token; log in with `hf auth login`"),
        ([], {"HF_TOKEN": "hf_wrongWRONGwrong1234567890"}, "the Hub refuses the access token; log in with"),
        (["--run", "/nowhere/at-all"], {}, "no finished run in /nowhere/at-all; expected a folder that"),
        (["--run", "{unfinished}"], {}, "it was interrupted: finish it with --resume"),
        (["--branch", "x", "--pull_request"], {}, "--branch and --pull_request exclude each other"),
        (["--whta", "both"], {}, "unknown option whta; did you mean what?"),
        ([], {"HF_HUB_OFFLINE": "1"}, "offline mode is on; unset HF_HUB_OFFLINE"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(hub, run, tmp_path, options, environment, words):
    (tmp_path / "half.partial").mkdir()
    options = [option.replace("{unfinished}", str(tmp_path / "half")) for option in options]
    result = recipe(hub, run, *options, **environment)
    assert result.returncode == 2
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert "hf_wrong" not in result.stderr + result.stdout
    assert not hub.exists("me/mine")


def load_from(hub: LoopbackHub, *arguments: str | None) -> str:
    """Load a checkpoint in a process of its own, which has the hub as its endpoint."""
    code = (
        "import json, sys\n"
        "from startup_llm.config import ModelConfig\n"
        "from startup_llm.errors import UserError\n"
        "from startup_llm.models.checkpoints import load_checkpoint\n"
        "name, revision = json.loads(sys.argv[1])\n"
        "try:\n"
        "    found = load_checkpoint(ModelConfig(checkpoint=name, revision=revision))\n"
        "    print(found.source, found.revision, found.license, found.weights_sha256)\n"
        "except UserError as error:\n"
        "    print(error)\n"
    )
    settings = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_TOKEN": TOKEN}
    environment = {**os.environ, **settings, "HF_HOME": str(hub.folder.parent / "hf"), "OMP_NUM_THREADS": "1"}
    return subprocess.check_output(
        [sys.executable, "-c", code, json.dumps(arguments)], env=environment, text=True, cwd=ROOT
    )


def test_a_published_checkpoint_is_found_again_at_its_revision(hub, run, push):
    import hashlib

    first = push()
    train_again(run, 7)
    push()
    digest = hashlib.sha256(build_weights(0)).hexdigest()
    assert load_from(hub, "me/mine", first.commit) == f"Hub {first.commit} apache-2.0 {digest}\n"
    assert "checkpoint me/mine has no revision v9" in load_from(hub, "me/mine", "v9")


def test_a_repository_with_pickled_weights_alone_is_refused_without_fetching_them(hub):
    hub.create("me/old", files={"config.json": b"{}", "pytorch_model.bin": b"pickle"})
    words = load_from(hub, "me/old", None)
    assert "checkpoint me/old on the Hub has no safetensors weights (found pytorch_model.bin)" in words
    assert not any("resolve" in path for _, path in hub.requests)


def test_the_hub_of_these_tests_answers_ranges_and_paths_and_hides_what_is_private(hub, push):
    push()
    address, rights = f"{hub.url}/me/mine/resolve/main/model.safetensors", {"Authorization": f"Bearer {TOKEN}"}
    part = httpx2.get(address, headers=rights | {"Range": "bytes=10-19"})
    assert (part.status_code, part.content) == (206, build_weights(0)[10:20])
    assert part.headers["X-Repo-Commit"] == hub.refs("me/mine")["main"]
    assert httpx2.get(address).status_code == 401
    api = HfApi(endpoint=hub.url, token=TOKEN)
    (described,) = api.get_paths_info("me/mine", ["model.safetensors", "none"])
    assert (described.size, described.lfs.size) == (5000, 5000)
    assert [ref.name for ref in api.list_repo_refs("me/mine").branches] == ["main"]


def test_the_lock_goes_with_the_run_for_the_config_that_is_published(hub, run, push):
    (run / "run.lock.json").write_text(
        json.dumps(LOCK | {"overrides": {"data.train_file": f"{run.parent}/train.csv"}})
    )
    results = json.loads((run / "results.json").read_text()) | {"lock": "run.lock.json"}
    (run / "results.json").write_text(json.dumps(results))
    push()
    files = hub.files("me/mine")
    assert json.loads(files["run.lock.json"]) == {
        "working_folder": None,
        "config_sha256": hashlib.sha256(files["config.yaml"]).hexdigest(),
        "data": [],
        "checkpoint": {"name": "base"},
        "overrides": {"data.train_file": "train.csv"},
    }
    assert b"python recipes/reproduce.py me/mine" in files["README.md"]
