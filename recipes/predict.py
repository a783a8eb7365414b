"""Answer the rows of a file, or of a pipe, with a finished run's model.

accelerate launch recipes/predict.py --run runs/helpdesk-lora --input new.csv --output answers.csv
accelerate launch --num_processes 8 recipes/predict.py --run runs/helpdesk-lora --input new.parquet --output a.jsonl.gz
tail -n 100 messages.txt | python recipes/predict.py --run runs/helpdesk-lora --input - --output -
"""

import sys
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

from startup_llm.config import ModelConfig, PredictConfig, parse_config
from startup_llm.data.streams import RowSource, RowTarget
from startup_llm.errors import run_recipe
from startup_llm.run_folder import find_model

say = partial(print, file=sys.stderr)


def main() -> None:
    config, _, _ = parse_config(PredictConfig)
    predict(config)


def open_files(config: PredictConfig) -> tuple[Path, dict[str, Any], RowSource, RowTarget]:
    model_folder, results = find_model(config.run)
    source = RowSource(config.input, config.input_format, config.piece_rows)
    target = RowTarget(config.output, config.output_format, source, overwrite=config.overwrite)
    return model_folder, results, source, target


def predict(config: PredictConfig) -> None:
    from startup_llm.training.processes import call_on_main_process, join_processes

    state = join_processes()
    model_folder, results, source, target = call_on_main_process(lambda: open_files(config))

    import datasets
    import numpy as np
    import transformers
    from tqdm import tqdm

    from startup_llm.data.questions import Questions
    from startup_llm.models.checkpoints import check_head, load_checkpoint
    from startup_llm.tasks import load_task
    from startup_llm.training.inference import predict_outputs
    from startup_llm.training.speed import plan_speed

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()

    trained = results.get("config", {}).get("data", {})
    questions = Questions(
        source, config.text_column, config.text_pair_column, skip_bad=config.skip_bad,
        trained_columns=(trained.get("text_column"), trained.get("text_pair_column")),
    )  # fmt: skip
    survey = call_on_main_process(lambda: questions.survey(with_schema=target.format == "parquet"))

    task = load_task(results.get("task", config.task))
    checkpoint = call_on_main_process(lambda: load_checkpoint(ModelConfig(checkpoint=str(model_folder))))
    call_on_main_process(lambda: check_head(checkpoint, task.auto_class))
    processor = task.load_processor(checkpoint, ModelConfig(max_length_tokens=sys.maxsize))
    model = task.load_plain(str(checkpoint.path)).to(state.device)
    plan = plan_speed() if config.compute_dtype == "auto" else plan_speed().exact()
    example = task.answer(np.ones(model.config.num_labels, np.float32), model.config)
    with target if state.is_main_process else nullcontext():
        call_on_main_process(lambda: target.open(survey.columns, example, survey.schema))
        if state.is_main_process:
            devices = f"{state.num_processes} x " * (state.num_processes > 1) + plan.device
            say(f"{source.name}: {survey.note}; model {checkpoint.name}, {plan.compute_dtype} on {devices}")
        with tqdm(total=survey.rows, unit=" rows", unit_scale=True, disable=not state.is_main_process) as progress:
            while (texts := call_on_main_process(questions.read)) is not None:
                outputs = []
                if texts["text"]:
                    encoded, _ = task.encode(datasets.Dataset.from_dict(texts), processor)
                    outputs = predict_outputs(task, model, encoded, processor, plan)
                if state.is_main_process:
                    answers = [task.answer(row, model.config) for row in outputs]
                    target.write(questions.piece, questions.place(answers))
                    progress.update(len(questions.piece))
    state.destroy_process_group()
    if state.is_main_process:
        left_out = f", {questions.skipped:,} without a usable text left unanswered" if questions.skipped else ""
        say(f"{progress.n:,} rows{left_out}; answers in {'stdout' if config.output == '-' else config.output}")


if __name__ == "__main__":
    run_recipe(main)
