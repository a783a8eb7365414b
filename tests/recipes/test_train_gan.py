"""The GAN's recipe as a person runs it, for a few steps."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from startup_llm.data.digits import LabelledImages, load_digits
from startup_llm.errors import UserError
from startup_llm.gan.digit_classifier import fit_image_classifier, predict_images
from startup_llm.gan.image_gan import build_gan_trainer, draw_labelled_images
from startup_llm.gan.options import GanModelConfig, GanTrainConfig
from startup_llm.gan.sample_grids import lay_out_grid, render_png
from startup_llm.models.scratch.formats import load_generator
from startup_llm.run_folder import RunFolder

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes" / "train_gan.py"
CONFIG = ROOT / "recipes" / "configs" / "digits_gan.yaml"
TWO_PROCESSES = ["-m", "torch.distributed.run", "--nproc_per_node", "2"]
TWO_PROCESSES += ["--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0", "--"]
TINY = GanModelConfig(noise_size=8, width=8)


@pytest.fixture(scope="module")
def few() -> LabelledImages:
    data = load_digits()
    return LabelledImages(
        data.train_images[:128], data.train_labels[:128], data.test_images, data.test_labels, data.label_names, ()
    )


def test_the_config_s_header_tells_its_command():
    assert "# accelerate launch recipes/train_gan.py --config recipes/configs/digits_gan.yaml" in CONFIG.read_text()


@pytest.mark.parametrize("launch", [[], pytest.param(TWO_PROCESSES, marks=pytest.mark.slow)], ids=["one", "two"])
def test_processes_run_the_config_and_leave_one_whole_run(launch, tmp_path):
    run = tmp_path / "run"
    words = ["--config", CONFIG, "--run_dir", run, "--train.epochs", 2, "--train.grids", 2, "--model.width", 8]
    words += ["--evaluation.resamples", 20, "--generated_rows", 200]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *launch, str(RECIPE), *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads((run / "results.json").read_text())
    assert set(results["models"]["generated images"]) == {"frechet_distance", "precision", "recall"}
    assert results["models"]["train-on-real"]["accuracy"]["value"] > 0.9
    assert results["rows"] == {"train": 1297, "test": 500}
    assert [record["epoch"] for record in results["history"]] == [1, 2]
    assert results["reload_gate"]["saved_max_difference"] == 0
    assert sorted(file.name for file in (run / "samples").iterdir()) == ["epoch_0001.png", "epoch_0002.png"]
    for file in (*(run / "samples").iterdir(), run / "losses.png"):
        assert file.read_bytes().startswith(b"\x89PNG")
    report = (run / "report.html").read_text()
    assert "data:image/png;base64," in report
    assert "adversarial loss" in report
    assert "load_generator" in (run / "README.md").read_text()
    assert load_generator(run / "model").noise_size == 64


def test_a_resumed_training_ends_with_the_same_weights(few, tmp_path):
    settings = {"batch_size": 32, "grids": 1}
    whole = build_gan_trainer(TINY, GanTrainConfig(epochs=3, **settings), few)
    list(whole.run_epochs())
    with RunFolder(tmp_path / "run") as run:
        first = build_gan_trainer(TINY, GanTrainConfig(epochs=2, **settings), few)
        for _ in first.run_epochs():
            first.save(run)
        assert [folder.name for folder in run.checkpoints.iterdir()] == ["checkpoint-2"]
        second = build_gan_trainer(TINY, GanTrainConfig(epochs=3, **settings), few)
        second.load(run.last_checkpoint())
        assert list(second.run_epochs()) == [3]
    assert second.history == whole.history
    for name, tensor in whole.average.average.state_dict().items():
        assert torch.equal(tensor, second.average.average.state_dict()[name]), name


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"batch_size": 2000}, "train.batch_size 2000: expected at most the 128 training images"),
        ({"checkpoint_epochs": 0}, r"checkpoint_epochs \(0\) must be at least 1"),
    ],
)
def test_a_number_that_cannot_be_is_refused(few, settings, message):
    with pytest.raises(UserError, match=message):
        build_gan_trainer(TINY, GanTrainConfig(**settings), few)


def test_a_step_moves_both_players_and_the_mean_lags_behind(few):
    trainer = build_gan_trainer(TINY, GanTrainConfig(epochs=1, batch_size=64), few)
    players = (trainer.generator, trainer.discriminator, trainer.average.average)
    before = [[p.clone() for p in player.parameters()] for player in players]
    list(trainer.run_epochs())
    moved = [
        max(float((new - old).detach().abs().max()) for new, old in zip(player.parameters(), kept, strict=True))
        for player, kept in zip(players, before, strict=True)
    ]
    assert moved[0] > moved[2] > 0
    assert moved[1] > 0


def test_the_digits_split_is_the_stated_one():
    data, again, other = load_digits(), load_digits(0), load_digits(1)
    assert data.train_images.shape == (1297, 1, 8, 8)
    assert data.test_images.shape == (500, 1, 8, 8)
    assert (float(data.train_images.min()), float(data.train_images.max())) == (-1, 1)
    assert torch.equal(data.test_labels, again.test_labels)
    assert not torch.equal(data.test_images, other.test_images)
    assert all(48 <= count <= 52 for count in torch.bincount(data.test_labels).tolist())


def test_the_same_seed_draws_the_same_images_and_leaves_training_s_random_state(few):
    generator = build_gan_trainer(TINY, GanTrainConfig(epochs=1), few).average.average
    state = torch.get_rng_state()
    images = [draw_labelled_images(generator, torch.arange(10), seed) for seed in (1, 1, 2)]
    fit_image_classifier(few.train_images, few.train_labels, 10, epochs=1)
    assert torch.equal(images[0], images[1])
    assert not torch.equal(images[0], images[2])
    assert torch.equal(state, torch.get_rng_state())


def test_the_judge_learns_the_digits(few):
    judge = fit_image_classifier(few.train_images, few.train_labels, 10, epochs=30)
    assert (predict_images(judge, few.test_images) == few.test_labels.numpy()).mean() > 0.8


def test_a_grid_holds_each_image_at_its_place():
    images = torch.full((6, 1, 2, 2), -1.0)
    images[4] = 1.0
    grid = lay_out_grid(images.numpy(), columns=3)
    assert grid.shape == (6, 9, 3)
    assert grid[3:5, 3:5].min() == 1
    assert grid[0:2].max() == 0.5
    assert render_png(grid, scale=2).startswith(b"\x89PNG")
