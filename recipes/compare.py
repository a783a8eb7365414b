"""Compare models on one data set and one test split, at several label budgets: which to use at which.

python recipes/compare.py --config recipes/configs/banking77_ladder.yaml
python recipes/compare.py --data.train_file tickets.csv --data.test_file later.csv --budgets '[10, all]'
"""

import sys

from startup_llm.command_line import open_session
from startup_llm.config import CompareConfig, default_run_dir
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    reporter = Reporter(sys.stdout)
    with open_session(__file__, CompareConfig, reporter, name_run=name_run, one_process=True) as session:
        compare(session)


def name_run(config: CompareConfig) -> str:
    return default_run_dir(config.data, "ladder")


def compare(session: Session[CompareConfig]) -> None:
    from startup_llm.evaluation import comparison
    from startup_llm.evaluation.metrics import rank_metrics
    from startup_llm.runs.comparison import check_comparison, load_draws, train_models
    from startup_llm.runs.summary import show_comparison
    from startup_llm.tasks import load_task

    config, run = session.config, session.run
    task = load_task(config.task)
    session.report(*check_comparison(config, task))

    with session.stage("data"):
        draws = load_draws(config, task)
    data = draws[0].data
    largest = max((draw.data for draw in draws), key=lambda data: len(data.splits["train"]))
    metric = rank_metrics(task.metrics(largest), config.evaluation.decides)[0]

    runs = []
    with session.stage("models"):
        for model_run in train_models(session, task, draws):
            comparison.check_measurable(model_run, metric)
            runs.append(model_run)
            session.report(model_run.describe())

    with session.stage("statistics"):
        references = task.references(data.splits["test"])
        figures = comparison.build_comparison(runs, references, metric, config.evaluation)
    about = {"title": run.final.name, "task": task.tag, "seconds": session.clock.total}
    results = {**about, **session.describe_process(), **figures}
    figure = comparison.draw_budget_curve(figures, classes=len(data.label_names))
    comparison.write_curve(figure, run.path / "curve.png")
    run.write_text("config.yaml", session.config_text)
    run.write_text("report.html", comparison.build_comparison_page(results, figure))
    run.write_json("results.json", results)
    run.finish()
    show_comparison(session, results)


if __name__ == "__main__":
    run_recipe(main)
