"""Tune a chat checkpoint on what people preferred (DPO, ORPO, KTO), and prove that it now prefers the better answer.

accelerate launch recipes/align.py --config recipes/configs/qwen3_dpo.yaml
accelerate launch recipes/align.py --model.checkpoint runs/NAME/model --data.train_file preferences.jsonl
accelerate launch recipes/align.py --method kto --data.train_file feedback.jsonl
"""

import sys

from startup_llm.command_line import open_session
from startup_llm.config import AlignConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, AlignConfig, Reporter(sys.stdout), train_section=True) as session:
        align(session)


def align(session: Session[AlignConfig]) -> None:
    from startup_llm.runs.decision import check_decision
    from startup_llm.runs.finish import finish_run
    from startup_llm.runs.summary import show_results
    from startup_llm.tasks import load_task
    from startup_llm.tasks.checkpoint import load_task_checkpoint, name_checkpoint
    from startup_llm.training import finetuning, preferences
    from startup_llm.training.processes import start_run
    from startup_llm.training.resumption import check_resumption

    config, stage = session.config, session.stage
    start_run(session.train_section["seed"])
    task = load_task(config.task)
    name_checkpoint(task, config.model)  # one has to be, before the data is read

    with stage("data"):
        preferences.check_preference_tuning(config, session.train_section)
        data = task.load_data(config.data, config.evaluation)
        task.check_method(config.method, data)
        check_decision(config, task, data)
        session.report(f"data: {data.describe()}", *data.notes)

    with stage("checkpoint"):
        checkpoint = load_task_checkpoint(task, config.model)
        processor = task.load_processor(checkpoint, config.model)
        plan = finetuning.choose_plan(session)
        prepared = finetuning.prepare(task, data, config, checkpoint, processor, plan)
        check_resumption(session, prepared)
        session.report(f"checkpoint: {checkpoint.name} ({checkpoint.source})", *prepared.describe())

    with stage("reference"):
        prepared, before = preferences.remember_reference(prepared)

    with stage("train"):
        trained = preferences.train_on_preferences(prepared, session)
        model = finetuning.save_model(trained, prepared, session)

    results = finish_run(session, prepared, trained, model, {"before": before})
    show_results(session, results)


if __name__ == "__main__":
    run_recipe(main)
