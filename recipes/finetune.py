"""Fine-tune a pretrained checkpoint on your own data, and prove that it helped.

accelerate launch recipes/finetune.py
accelerate launch recipes/finetune.py --data.train_file tickets.csv
accelerate launch recipes/finetune.py --config recipes/configs/banking77_lora.yaml --train.num_train_epochs 2
"""

import functools
import sys
from dataclasses import replace

from startup_llm.command_line import open_session
from startup_llm.config import FinetuneConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, FinetuneConfig, Reporter(sys.stdout), train_section=True) as session:
        finetune(session)


def finetune(session: Session[FinetuneConfig]) -> None:
    from startup_llm.audit.audit import audit_task_data
    from startup_llm.audit.checkpoint_languages import warn_of_languages
    from startup_llm.audit.report import summarize
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.runs.finish import check_finish, finish_run
    from startup_llm.runs.summary import show_results
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint, name_checkpoint
    from startup_llm.training import finetuning
    from startup_llm.training.preflight import Preflight, check_preflight
    from startup_llm.training.processes import start_run
    from startup_llm.training.train_section import check_run

    config, stage, audit = session.config, session.stage, None
    check_preflight(config)
    start_run(session.train_section["seed"], shards=True)
    task = load_task(config.task)
    name_checkpoint(task, config.model)  # one has to be, before the data is read

    with stage("data"):
        data = task.load_data(config.data, config.evaluation)
        task.check_method(config.method, data)
        check_finish(config, task, data)
        session.report(f"data: {data.describe()}", *data.notes)

    if session.run.is_writer and config.audit != "none":
        with stage("audit"):
            audit = audit_task_data(data, config.audit, config.model)
        session.report(f"audit: {config.audit}", *summarize(audit))

    with stage("checkpoint"):
        checkpoint = load_task_checkpoint(task, config.model)
        processor = task.load_processor(checkpoint, config.model, data)
        find_shape = functools.partial(finetuning.find_attention_shape, task, data, checkpoint, processor)
        plan = finetuning.choose_plan(session, find_shape)
        prepared = finetuning.prepare(task, data, config, checkpoint, processor, plan)
        check_run(session, prepared)
        data = prepared.data
        notes = [*prepared.describe(), *warn_of_languages(audit, prepared)]
        session.report(f"checkpoint: {checkpoint.name} ({checkpoint.source})", *notes)

    predictions, prompted, untuned_gallery = {}, None, []
    if session.run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data)
            prompted = task.ask_llm and task.ask_llm(data, config.baselines, config.evaluation.seed)
        session.report(*([f"llm: {prompted.describe()}"] if prompted else []))

    if task.probe is not None:
        with stage("probe"):
            probe = finetuning.start_from_probe(prepared, config.evaluation, config.train_balance)
            predictions["linear-probe"], prepared = probe.predictions, replace(prepared, probe=probe)

    if config.method == "zero-shot":
        with stage("label names"):
            finetuning.start_from_label_names(prepared)

    if prepared.task_model.answers_untuned and config.method != "zero-shot":  # which is the untuned one
        untuned, untuned_gallery = finetuning.predict_untuned(prepared, session)
        predictions |= untuned

    preflight = Preflight(session, prepared)
    with stage("train"):
        trained = finetuning.train(prepared, session, before=preflight)
        model = finetuning.save_model(trained, prepared, session)

    show_results(session, finish_run(
        session, prepared, trained, model, predictions,
        audit=audit, estimate=preflight.estimate, untuned_gallery=untuned_gallery, prompted=prompted,
    ))  # fmt: skip


if __name__ == "__main__":
    run_recipe(main)
