"""Train a reference model from scratch on your own data: what the task's rows alone can teach, and what they cannot.

accelerate launch recipes/pretrain.py --data.train_file tickets.csv --model.name transformer
accelerate launch recipes/pretrain.py --config recipes/configs/banking77_dnn.yaml
"""

import sys

from startup_llm.command_line import open_session
from startup_llm.config import PretrainConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    with open_session(__file__, PretrainConfig, Reporter(sys.stdout), train_section=True) as session:
        pretrain(session)


def pretrain(session: Session[PretrainConfig]) -> None:
    from startup_llm.evaluation.baselines import predict_baselines
    from startup_llm.runs.finish import check_finish, finish_run
    from startup_llm.runs.summary import show_results
    from startup_llm.tasks import load_task
    from startup_llm.training import finetuning, pretraining
    from startup_llm.training.processes import start_run
    from startup_llm.training.train_section import check_run

    config, stage = session.config, session.stage
    start_run(session.train_section["seed"], shards=True)
    task = load_task(config.task)

    with stage("data"):
        data = task.load_data(config.data, config.evaluation)
        check_finish(config, task, data)
        session.report(f"data: {data.describe()}", *data.notes)

    with stage("model"):
        plan = finetuning.choose_plan(session)
        prepared = pretraining.prepare(task, data, config, plan)
        check_run(session, prepared)
        data = prepared.data
        session.report(f"model: {config.method} from random weights", *prepared.describe())

    predictions = {}
    if session.run.is_writer:
        with stage("baselines"):
            predictions = predict_baselines(task.baselines(data), data)

    with stage("train"):
        trained = pretraining.train(prepared, session)
        model = pretraining.save_model(trained, prepared, session)

    results = finish_run(session, prepared, trained, model, predictions)
    show_results(session, results)


if __name__ == "__main__":
    run_recipe(main)
