"""Answer the rows of a file, or of a pipe, with a finished run's model.

accelerate launch recipes/predict.py --run runs/helpdesk-lora --input new.csv --output answers.csv
accelerate launch --num_processes 8 recipes/predict.py --run runs/helpdesk-lora --input new.parquet --output a.jsonl.gz
accelerate launch recipes/predict.py --run runs/digits-vit --input photos/ --output answers.csv
python recipes/predict.py --run runs/smollm2-chat --text "Where is my parcel?"
tail -n 100 messages.txt | python recipes/predict.py --run runs/helpdesk-lora --input - --output -
"""

import sys
from contextlib import nullcontext
from pathlib import Path

from startup_llm.command_line import read_session
from startup_llm.config import PredictConfig
from startup_llm.errors import run_recipe
from startup_llm.reporter import Reporter
from startup_llm.session import Session


def main() -> None:
    predict(read_session(__file__, PredictConfig, Reporter(sys.stderr)))


def write_at_once(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def predict(session: Session[PredictConfig]) -> None:
    from startup_llm.runs.prediction import follow_run, load_answering_model, open_files, show_answer
    from startup_llm.training.processes import call_on_main_process, join_processes

    processes = join_processes()
    config = call_on_main_process(lambda: follow_run(session.config))
    if config.text is not None:
        if processes.is_main_process:
            show_answer(config, processes.device, write_at_once)
        return
    files = call_on_main_process(lambda: open_files(config))
    questions, target, predictor = files.questions, files.target, files.task.predictor
    survey = call_on_main_process(lambda: questions.survey(with_schema=target.format == "parquet"))

    with session.stage("model"):
        model = load_answering_model(config, files.task, files.model, processes.device)
        searched = predictor.prepare(
            config, Path(config.run), model.processor, lambda texts: model.compute_vectors(texts)[0]
        )

    with target if processes.is_main_process else nullcontext():
        call_on_main_process(lambda: target.open(survey.columns, model.example(), survey.schema))
        devices = f"{processes.num_processes} x " * (processes.num_processes > 1) + model.plan.device
        notes = "; ".join(note for note in (*files.source.notes, survey.note, searched, model.note) if note)
        session.report(f"{files.source.name}: {notes}; {model.describe()} on {devices}")

        rows = 0
        with session.reporter.show_progress("answers", total=survey.rows, unit="rows") as bar:
            while (columns := call_on_main_process(questions.read)) is not None:
                answers = model.answer(columns)
                if processes.is_main_process:
                    target.write(questions.piece, questions.place(answers))
                    rows += len(questions.piece)
                    bar.advance(len(questions.piece))

    processes.destroy_process_group()
    left_out = f", {questions.skipped:,} that cannot be answered left out" if questions.skipped else ""
    session.report(f"{rows:,} rows{left_out}; answers in {'stdout' if config.output == '-' else config.output}")


if __name__ == "__main__":
    run_recipe(main)
