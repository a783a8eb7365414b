"""The reload gate: what was saved must give the trained model's numbers in a process that knows nothing of training.

A head that was not saved, an adapter for another base, labels in another order: each shows here and fails the run.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from startup_llm.evaluation.environment import withhold_secrets
from startup_llm.models.adapters import load_on_bare_base

if TYPE_CHECKING:
    from datasets import Dataset

    from startup_llm.run_folder import RunFolder

TOLERANCE = 1e-3
"""Largest difference of a float32 logit between the saved model here and in a fresh process."""


class ReloadError(RuntimeError):
    """What was saved does not give the trained model's numbers."""


def check_reload(
    run: RunFolder,
    *,
    task: str,
    rows: Dataset,
    outputs: Sequence[np.ndarray],
    base: Path,
    load_arguments: Mapping[str, Any],
) -> dict[str, Any]:
    """Load the run's adapter and merged model in a fresh process and compare outputs, and the pipeline's answers.

    The adapter is loaded on the base as its card says, and by PEFT's Auto class; the larger difference counts.

    Args:
        run: The run, with `model/` and perhaps `adapter/` written.
        task: Pipeline tag.
        rows: Raw rows to compare on.
        outputs: The model's float32 scores on them (`SavedModel.compute_scores`), one array per encoded row.
        base: Folder of the pretrained checkpoint.
        load_arguments: What `from_pretrained` on the base needs to get the model's shape.

    Returns:
        Rows, tolerance, and the largest difference of each form.

    Raises:
        ReloadError: If a form cannot be loaded or its outputs differ by more than `TOLERANCE`.
    """
    with tempfile.TemporaryDirectory(dir=run.path, prefix=".gate-") as folder:
        request = Path(folder) / "request.json"
        rows.save_to_disk(str(Path(folder) / "rows"))
        np.savez(Path(folder) / "outputs.npz", *outputs)
        request.write_text(
            json.dumps(
                {
                    "task": task,
                    "base": str(base),
                    "load_arguments": dict(load_arguments),
                    "adapter": str(run.adapter) if run.adapter.is_dir() else None,
                    "model": str(run.model),
                }
            )
        )
        compare_in_fresh_process(request)
        differences = json.loads((Path(folder) / "answer.json").read_text())
    for form, difference in differences.items():
        if not difference <= TOLERANCE:
            raise ReloadError(
                f"the reloaded {form} differs from the trained model by {difference:.3g} in an output "
                f"(tolerance {TOLERANCE:g}); the run is not finished"
            )
    return {
        "rows": len(rows),
        "tolerance": TOLERANCE,
        **{f"{form}_max_difference": difference for form, difference in differences.items()},
    }


def compare_in_fresh_process(request: Path) -> None:
    """Have a process that has trained nothing load each saved form, and write its answer beside the request.

    Raises:
        ReloadError: If the process fails.
    """
    answer = subprocess.run(
        [sys.executable, "-m", "startup_llm.training.reload_gate", str(request)],
        env=withhold_secrets(plain_environment()),
        capture_output=True,
        text=True,
        check=False,
    )
    if answer.returncode != 0:
        raise ReloadError(f"the saved model does not load in a fresh process:\n{answer.stderr[-4000:]}")


def plain_environment() -> dict[str, str]:
    """Return the environment without what would make the child a part of a distributed run."""
    distributed = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")
    return {
        name: value
        for name, value in os.environ.items()
        if name not in distributed and not name.startswith(("ACCELERATE_", "FSDP_", "TORCHELASTIC_"))
    }


def compare(request_file: Path) -> None:
    """Load each saved form, compare its outputs, and write the largest differences beside the request."""
    import torch
    from datasets import load_from_disk

    from startup_llm.tasks import load_task

    request, folder = json.loads(request_file.read_text()), request_file.parent
    task, rows = load_task(request["task"]), load_from_disk(str(folder / "rows"))
    with np.load(folder / "outputs.npz") as stored:
        expected = [stored[f"arr_{place}"] for place in range(len(stored.files))]

    def measure(model: Any, saved: str) -> float:
        processor = task.saved_model.load_processor(saved)
        encoded = task.saved_model.encode_sample(rows, processor)
        unused = [name for name in encoded.column_names if name in ("labels", "length") or name.startswith("_")]
        collator, inputs = task.build_collator(processor), encoded.remove_columns(unused)
        with torch.inference_mode():
            scores = [task.saved_model.compute_scores(model.eval(), collator([row]), processor)[0] for row in inputs]
        return max(_difference(*pair) for pair in zip(scores, expected, strict=True))

    model = task.saved_model.load(request["model"])
    differences = {"merged": measure(model, request["model"])}
    if (difference := task.saved_model.check_pipeline(request["model"], rows, expected)) is not None:
        differences["pipeline"] = difference
    if request["adapter"]:
        from peft import PeftModel

        pad = getattr(task.saved_model.load_processor(request["adapter"]), "pad_token_id", None)
        base = task.saved_model.load(request["base"], **request["load_arguments"])
        if pad is not None:
            base.config.pad_token_id = pad
        differences["adapter"] = measure(PeftModel.from_pretrained(base, request["adapter"]), request["adapter"])
        with tempfile.TemporaryDirectory(dir=folder) as bare:
            places = (Path(request["adapter"]), Path(request["base"]))
            loaded = load_on_bare_base(*places, request["load_arguments"], Path(bare))
        if loaded is not None:
            if pad is not None:
                loaded.config.pad_token_id = pad
            differences["adapter"] = max(differences["adapter"], measure(loaded, request["adapter"]))
    (folder / "answer.json").write_text(json.dumps(differences))


def _difference(outputs: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference of two outputs; outputs of other shapes differ without bound."""
    if outputs.shape != expected.shape:
        return float("inf")
    return float(np.abs(outputs - expected).max(initial=0.0))


if __name__ == "__main__":
    compare(Path(sys.argv[1]))
