"""Train a class-conditional image GAN on digits, or GAN-BERT on few labelled and many unlabelled texts.

accelerate launch recipes/train_gan.py
accelerate launch recipes/train_gan.py --config recipes/configs/digits_gan.yaml --train.epochs 50
accelerate launch recipes/train_gan.py --kind text --data.train_file tickets.csv --data.labels_per_class 10
"""

import sys

from startup_llm.command_line import open_session
from startup_llm.config import default_run_dir
from startup_llm.errors import run_recipe
from startup_llm.gan.options import GanConfig
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, GanConfig, Reporter(sys.stdout), name_run=name_run) as session:
        {"image": train_image_gan, "text": train_ganbert}[session.config.kind](session)


def name_run(config: GanConfig) -> str:
    return "runs/digits-gan" if config.kind == "image" else default_run_dir(config.data, "ganbert")


def train_image_gan(session: Session[GanConfig]) -> None:
    from startup_llm.data.digits import load_digits
    from startup_llm.gan import image_gan
    from startup_llm.gan.evaluation import evaluate_generator
    from startup_llm.gan.results import describe_image_gan
    from startup_llm.gan.sample_grids import SampleGrid, write_losses
    from startup_llm.runs.finish import write_run
    from startup_llm.runs.summary import show_results
    from startup_llm.training.processes import join_processes
    from startup_llm.training.resumption import check_resumption

    config, stage, run = session.config, session.stage, session.run
    join_processes()
    check_resumption(session)
    data = load_digits(config.split_seed)
    session.report(*data.notes)
    trainer = image_gan.build_gan_trainer(config.model, config.train, data)
    grid = SampleGrid(session, trainer.average.average, classes=len(data.label_names))
    with stage("train"):
        for epoch in trainer.train_in(session):
            grid.keep(epoch)

    if run.is_writer:
        with stage("save"):
            generator, gate = image_gan.save_and_check_generator(trainer, data, session)
        with stage("evaluate"):
            scores, predictions = evaluate_generator(generator, data, config)
        write_losses(trainer, run)
        results = describe_image_gan(session, data, trainer, scores, gate, grid.describe())
        rows = {"row": range(1, len(data.test_labels) + 1), "label": data.test_labels}
        show_results(session, write_run(session, results, {**rows, **predictions}), predicts=False)


def train_ganbert(session: Session[GanConfig]) -> None:
    from startup_llm.gan import ganbert
    from startup_llm.gan.results import describe_ganbert
    from startup_llm.gan.sample_grids import write_losses
    from startup_llm.runs.finish import write_run
    from startup_llm.runs.summary import show_results
    from startup_llm.tasks import load_task
    from startup_llm.training.processes import start_run

    config, stage, run = session.config, session.stage, session.run
    start_run(config.text.seed)
    with stage("data"):
        task = load_task("text-classification")
        data = ganbert.load_few_labels(task, config.data, config.evaluation)
        session.report(f"data: {data.describe()}, {len(data.unlabelled):,} unlabelled", *data.notes)

    with stage("features"):
        prepared = ganbert.prepare(task, data, session)
        session.report(f"encoder: {prepared.checkpoint.name}, frozen", *prepared.task_model.notes)
        vectors = ganbert.extract_sentence_vectors(prepared)

    with stage("baselines"):  # the discriminator alone among them
        predictions = ganbert.predict_baselines(prepared, vectors, session)

    trainer = ganbert.build_ganbert_trainer(config.text, vectors, data)
    with stage("train"):
        list(trainer.train_in(session))
        predictions["ganbert"] = ganbert.predict_classes(trainer, prepared, vectors)

    with stage("save"):
        gate = ganbert.save_and_check(trainer, prepared, vectors, run)
    if run.is_writer:
        write_losses(trainer, run)
        results = describe_ganbert(session, prepared, trainer, vectors, predictions, gate)
        rows = {"row": data.splits["test"]["row"], **predictions}
        show_results(session, write_run(session, results, rows), predicts=False)


if __name__ == "__main__":
    run_recipe(main)
