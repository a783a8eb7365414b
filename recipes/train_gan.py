"""Train a class-conditional image GAN on digits, or GAN-BERT on few labelled and many unlabelled texts.

accelerate launch recipes/train_gan.py
accelerate launch recipes/train_gan.py --config recipes/configs/digits_gan.yaml --train.epochs 50
accelerate launch recipes/train_gan.py --kind text --data.train_file tickets.csv --data.labels_per_class 10
"""

import base64
import functools
import json
import shlex
import sys
from dataclasses import asdict
from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import default_run_dir
from startup_llm.errors import run_recipe
from startup_llm.gan.options import GanConfig
from startup_llm.run_folder import RunFolder
from startup_llm.session import Session

LOAD = """import torch
from huggingface_hub import snapshot_download
from startup_llm.models.scratch.formats import load_generator

generator = load_generator(snapshot_download("REPOSITORY"))
images = generator(torch.randn(10, generator.noise_size), torch.arange(10))"""
LOAD_TEXT = """from huggingface_hub import snapshot_download
from startup_llm.gan.ganbert import load_ganbert

model, tokenizer = load_ganbert(snapshot_download("REPOSITORY"))
logits = model(**tokenizer("a text", return_tensors="pt"))["logits"]"""


def main() -> None:
    config, _, config_text = parse_config(GanConfig)
    train = {"image": train_image_gan, "text": train_ganbert}[config.kind]
    default = "runs/digits-gan" if config.kind == "image" else default_run_dir(config.data, "ganbert")
    with RunFolder(config.run_dir or default, overwrite=config.overwrite, resume=config.resume, config=config) as run:
        train(config, config_text, run)


def train_image_gan(config: GanConfig, config_text: str, run: RunFolder) -> None:
    import torch

    from startup_llm.data.digits import load_digits
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.gan.evaluation import evaluate_generator
    from startup_llm.gan.finish import write_gan_run
    from startup_llm.gan.image_gan import build_gan_trainer, draw_labelled_images
    from startup_llm.gan.sample_grids import lay_out_grid, plot_losses, render_png
    from startup_llm.models.scratch.formats import load_generator, save_generator
    from startup_llm.training.processes import join_processes
    from startup_llm.training.reload_gate import ReloadError

    join_processes()
    stage = StageClock()
    say = print if run.is_writer else lambda *words, **options: None
    data = load_digits(config.split_seed)
    classes, epochs = len(data.label_names), config.train.epochs
    say(*data.notes, sep="\n")
    trainer = build_gan_trainer(config.model, config.train, data)
    if config.resume and (last := run.last_checkpoint()):
        trainer.load(last)
        say(f"goes on after epoch {len(trainer.history)}")
    grid_labels = torch.arange(classes).repeat_interleave(classes)  # a row of the grid per class
    grid_epochs = {round(epochs * (number + 1) / config.train.grids) for number in range(config.train.grids)}
    if run.is_writer:
        (run.path / "samples").mkdir(exist_ok=True)

    def draw_grid():
        images = draw_labelled_images(trainer.average.average, grid_labels, seed=config.train.seed)
        return lay_out_grid(images.numpy(), columns=classes)

    with stage("train"):
        for epoch in trainer.run_epochs():
            if epoch in grid_epochs:
                losses = {name: value for name, value in trainer.history[-1].items() if name.endswith("loss")}
                say(f"epoch {epoch}/{epochs}:", *(f"{name} {value:.3f}" for name, value in losses.items()))
                if run.is_writer:
                    (run.path / "samples" / f"epoch_{epoch:04d}.png").write_bytes(render_png(draw_grid(), scale=4))
            if epoch % config.train.checkpoint_epochs == 0 or epoch == epochs:
                trainer.save(run)

    if not run.is_writer:
        return
    with stage("save"):
        sizes = {"image_size": data.train_images.shape[-1], "channels": data.train_images.shape[1]}
        save_generator(trainer.average.average, run.model, **sizes, **asdict(config.model), classes=classes)
        generator = load_generator(run.model)
        again = draw_labelled_images(generator, grid_labels, seed=1)
        kept = draw_labelled_images(trainer.average.average, grid_labels, seed=1)
        gate = {"rows": len(again), "tolerance": 1e-3, "saved_max_difference": float((again - kept).abs().max())}
        if gate["saved_max_difference"] > gate["tolerance"]:
            raise ReloadError(f"the saved generator draws other images than the trained one: {gate}")
    with stage("evaluate"):
        scores, predictions = evaluate_generator(
            generator, data, config.evaluation, rows=config.generated_rows, seed=config.train.seed
        )
    losses_png = plot_losses(trainer.history, ("discriminator_loss", "generator_loss", "r1_penalty"))
    (run.path / "losses.png").write_bytes(losses_png)
    caption = f"Generated digits after {epochs} epochs, a row per class, none chosen by hand"
    samples = {"caption": caption, "png_base64": base64.b64encode(render_png(draw_grid())).decode()}
    write_gan_run(
        run, config, config_text, data, trainer, scores, gate, samples, stage,
        predictions=predictions, load_code=LOAD,
        command=shlex.join(["accelerate", "launch", "recipes/train_gan.py", *sys.argv[1:]]),
    )  # fmt: skip
    say(*scores["sentences"], sep="\n")
    for name in ("generated images", "real test images"):
        say(f"{name}: {json.dumps({metric: round(v['value'], 3) for metric, v in scores['models'][name].items()})}")
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


def train_ganbert(config: GanConfig, config_text: str, run: RunFolder) -> None:
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.evaluation.environment import StageClock
    from startup_llm.gan import ganbert
    from startup_llm.gan.finish import write_ganbert_run
    from startup_llm.gan.sample_grids import plot_losses
    from startup_llm.hub.dataset_card import read_dataset_card
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint
    from startup_llm.training import finetuning
    from startup_llm.training.processes import start_run

    start_run(config.text.seed)
    stage = StageClock()
    say = functools.partial(print, flush=True) if run.is_writer else lambda *words: None
    task = load_task("text-classification")

    with stage("data"):
        data = ganbert.load_few_labels(task, config.data, config.evaluation)
        say("\n  ".join([f"data: {data.describe()}, {len(data.unlabelled):,} unlabelled", *data.notes]))

    with stage("features"):
        checkpoint = load_task_checkpoint(task, config.encoder)
        processor = task.load_processor(checkpoint, config.encoder)
        plan = finetuning.choose_plan(Session(config, run))
        task_model = task.build_model(checkpoint, processor, data, config.encoder, plan.attention_kernel)
        plan = finetuning.settle_kernel(plan, config.speed, task_model.model, checkpoint.name)
        prepared = finetuning.encode_splits(task, data, checkpoint, processor, task_model, plan)
        say("\n  ".join([f"encoder: {checkpoint.name} ({checkpoint.source}), frozen", *task_model.notes]))
        vectors = ganbert.extract_sentence_vectors(prepared)

    predictions = {}
    if run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data)
            predictions["linear-probe"] = ganbert.predict_probe(prepared, vectors)

    with stage("discriminator alone"):
        alone = ganbert.build_ganbert_trainer(config.text, vectors, data, adversarial=False)
        list(alone.run_epochs())
        predictions["discriminator-alone"] = ganbert.predict_classes(alone, prepared, vectors)

    trainer = ganbert.build_ganbert_trainer(config.text, vectors, data)
    if config.resume and (last := run.last_checkpoint()):
        trainer.load(last)
        say(f"goes on after epoch {len(trainer.history)}")
    with stage("train"):
        for epoch in trainer.run_epochs():
            if epoch % config.text.checkpoint_epochs == 0 or epoch == config.text.epochs:
                losses = {name: value for name, value in trainer.history[-1].items() if name.endswith("loss")}
                say(f"epoch {epoch}/{config.text.epochs}:", *(f"{name} {value:.3f}" for name, value in losses.items()))
                trainer.save(run)

    predictions["ganbert"] = ganbert.predict_classes(trainer, prepared, vectors)
    with stage("save"):
        gate = ganbert.save_and_check(trainer, prepared, vectors, run)
    if not run.is_writer:
        return
    names = ("supervised_loss", "unsupervised_loss", "generator_loss")
    (run.path / "losses.png").write_bytes(plot_losses(trainer.history, names))
    sentences = write_ganbert_run(
        run, config, config_text, prepared, trainer, vectors, predictions, gate, stage,
        load_code=LOAD_TEXT,
        command=shlex.join(["accelerate", "launch", "recipes/train_gan.py", *sys.argv[1:]]),
        data_card=read_dataset_card(config.data, Path(__file__).parents[1] / "data_cards"),
    )  # fmt: skip
    say("\n".join(sentences))
    say(f"run: {run.final} ({stage.total:.0f} s); look at {run.final}/report.html")


if __name__ == "__main__":
    run_recipe(main)
