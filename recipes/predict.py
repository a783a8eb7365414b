"""Answer the rows of a file, or of a pipe, with a finished run's model.

accelerate launch recipes/predict.py --run runs/helpdesk-lora --input new.csv --output answers.csv
accelerate launch --num_processes 8 recipes/predict.py --run runs/helpdesk-lora --input new.parquet --output a.jsonl.gz
accelerate launch recipes/predict.py --run runs/digits-vit --input photos/ --output answers.csv
tail -n 100 messages.txt | python recipes/predict.py --run runs/helpdesk-lora --input - --output -
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path

from startup_llm.command_line import parse_config
from startup_llm.config import ModelConfig, PredictConfig, SpeedConfig
from startup_llm.data.rows_to_predict import Questions
from startup_llm.data.streams import RowSource, RowTarget
from startup_llm.errors import UserError, run_recipe
from startup_llm.run_folder import find_model
from startup_llm.tasks import load_task
from startup_llm.tasks.base import Task

say = partial(print, file=sys.stderr)


def main() -> None:
    config, _, _ = parse_config(PredictConfig)
    predict(config)


def open_files(config: PredictConfig) -> tuple[Task, Path, Questions, RowSource, RowTarget]:
    model_folder, results = find_model(config.run)
    task = load_task(results.get("task", config.task))
    source = RowSource(config.input, config.input_format, config.piece_rows)
    if source.format == "folder" and not task.predictor.reads_files:
        raise UserError(f"{config.input} is a folder, expected a file: {task.tag} reads its rows")
    target = RowTarget(config.output, config.output_format, source, overwrite=config.overwrite)
    trained = results.get("config", {}).get("data", {})
    questions = Questions(
        source,
        task.predictor.columns,
        task.predictor.find_fault,
        columns=config.columns,
        trained_columns={name: trained.get(f"{name}_column") for name in task.predictor.columns},
        files=task.predictor.reads_files,
        skip_bad=config.skip_bad,
    )
    return task, model_folder, questions, source, target


def predict(config: PredictConfig) -> None:
    from startup_llm.training.processes import call_on_main_process, join_processes

    state = join_processes()
    task, model_folder, questions, source, target = call_on_main_process(lambda: open_files(config))

    import datasets
    import transformers
    from tqdm import tqdm

    from startup_llm.models.checkpoints import check_head, load_checkpoint
    from startup_llm.models.pretrained import load_config
    from startup_llm.training.inference import predict_answers
    from startup_llm.training.speed import plan_speed, use_plan
    from startup_llm.training.trained_model import load_trained_processor

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()

    survey = call_on_main_process(lambda: questions.survey(with_schema=target.format == "parquet"))

    checkpoint = call_on_main_process(lambda: load_checkpoint(ModelConfig(checkpoint=str(model_folder))))
    if not task.saved_model.has_own_format(str(checkpoint.path)):
        call_on_main_process(lambda: load_config(checkpoint, trust_remote_code=False))
        call_on_main_process(lambda: check_head(checkpoint, task.saved_model.find_auto_class(str(checkpoint.path))))
    processor = load_trained_processor(task, checkpoint)
    model = task.saved_model.load(str(checkpoint.path)).to(state.device)
    if config.max_new_tokens is not None:
        if not hasattr(model, "generation_config"):
            raise UserError(f"max_new_tokens {config.max_new_tokens}: {task.tag} writes nothing; leave it out")
        model.generation_config.max_new_tokens = config.max_new_tokens
    dtype = None if config.compute_dtype == "auto" else config.compute_dtype
    plan = call_on_main_process(lambda: plan_speed(SpeedConfig(compute_dtype=dtype)))
    use_plan(plan, SpeedConfig())

    def compute(encoded: datasets.Dataset) -> list:
        return predict_answers(task, model, encoded, processor, plan)

    searched = task.predictor.prepare(config, Path(config.run), processor, compute)
    with target if state.is_main_process else nullcontext():
        call_on_main_process(lambda: target.open(survey.columns, task.predictor.example(model.config), survey.schema))
        if state.is_main_process:
            devices = f"{state.num_processes} x " * (state.num_processes > 1) + plan.device
            notes = "; ".join(note for note in (survey.note, searched) if note)
            say(f"{source.name}: {notes}; model {checkpoint.name}, {plan.compute_dtype} on {devices}")
        with tqdm(total=survey.rows, unit=" rows", unit_scale=True, disable=not state.is_main_process) as progress:
            while (columns := call_on_main_process(questions.read)) is not None:
                answers = []
                if rows := datasets.Dataset.from_dict(columns):
                    encoded = task.predictor.encode(rows, processor)
                    outputs = compute(encoded)
                    answers = task.predictor.answer(outputs, encoded, rows, processor, model.config)
                if state.is_main_process:
                    target.write(questions.piece, questions.place(answers))
                    progress.update(len(questions.piece))
    state.destroy_process_group()
    if state.is_main_process:
        left_out = f", {questions.skipped:,} that cannot be answered left out" if questions.skipped else ""
        say(f"{progress.n:,} rows{left_out}; answers in {'stdout' if config.output == '-' else config.output}")


if __name__ == "__main__":
    run_recipe(main)
