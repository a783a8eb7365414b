"""The model card (README.md) of a finished run, made from the plain data in results.json.

It claims nothing that the results do not hold, and says what was not measured. Texts of the data stay out of it: a
card is public, the data may not be.
"""

from __future__ import annotations

import functools
import html
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from startup_llm.access_tokens import redact_tokens
from startup_llm.audit.report import describe_languages
from startup_llm.evaluation.energy import describe_energy
from startup_llm.evaluation.prediction_costs import list_prediction_costs
from startup_llm.evaluation.report import (
    Results,
    build_metric_table,
    build_verdict,
    describe_comparison,
    find_class_score,
    find_run_model,
    format_bytes,
    format_count,
    format_dollars,
    format_duration,
    format_level,
    hide_local_paths,
    judge_comparison,
    list_files,
    list_metrics,
    name_metric,
    rank_classes,
)
from startup_llm.hub.request_examples import build_request_examples

if TYPE_CHECKING:
    import jinja2
    from huggingface_hub import EvalResult, ModelCardData

    from startup_llm.evaluation.statistics import Outcome

ADAPTER_FOLDER = "adapter"
"""Folder of the published repository that holds the adapter; its root holds the merged model. An adapter in the root
would keep `transformers.pipeline` from loading the merged weights beside it."""

PROCESSOR_NAMES: Mapping[str, str] = {
    "AutoTokenizer": "tokenizer",
    "AutoImageProcessor": "image_processor",
    "AutoFeatureExtractor": "feature_extractor",
    "AutoProcessor": "processor",
}
"""What the code of a card calls a processor, by the class that loads it."""

FROM_SCRATCH = "from scratch"
"""Source of a checkpoint that is none: the weights were drawn at random."""

HUB_METRICS: Mapping[str, str] = {
    "macro_f1": "f1",
    "micro_f1": "f1",
    "weighted_f1": "f1",
    "mean_squared_error": "mse",
    "mean_absolute_error": "mae",
    "squad_f1": "f1",
    "squad_v2_f1": "f1",
    "squad_exact_match": "exact_match",
    "squad_v2_exact_match": "exact_match",
    "pearson": "pearsonr",
    "entity_f1": "f1",
    "entity_precision": "precision",
    "entity_recall": "recall",
    "token_accuracy": "accuracy",
    "word_error_rate": "wer",
    "character_error_rate": "cer",
    "normalized_word_error_rate": "wer",
    "normalized_character_error_rate": "cer",
    "spearman": "spearmanr",
}
"""The Hub's identifier of a metric, where it is not the metric's own name."""

_METHODS: Mapping[str, str] = {
    "lora": "fine-tuned with LoRA",
    "full": "fully fine-tuned",
    "probe": "used frozen, with a linear head on its features",
    "zero-shot": "used frozen, without training: a head built from the names of labels, or a search by its vectors",
    "dnn": "trained as a feed-forward network (DNN)",
    "transformer": "trained as a transformer",
    "gpt": "trained as a small GPT",
    "t5": "trained as a small T5",
    "vit": "trained as a small vision transformer",
    "rt-detr": "trained as a small RT-DETR",
    "conformer": "trained as a small Conformer over spectrograms",
    "whisper": "trained as a small Whisper",
    "speecht5": "trained as a small SpeechT5",
    "gan": "trained as the generator of a class-conditional GAN",
    "ganbert": "used frozen, under a discriminator trained as in GAN-BERT on few labelled and many unlabelled texts",
}
_SETTINGS: Mapping[str, tuple[str, ...]] = {
    "model": (
        "max_length_tokens",
        "dropout",
        "head_learning_rate",
        "width",
        "hidden",
        "layers",
        "heads",
        "vocab_size",
        "longest_ngram",
        "tokenizer",
        "inner_width",
        "noise_size",
    ),
    "lora": ("rank", "alpha", "dropout", "target_modules", "upper_layers"),
    "train": (
        "learning_rate",
        "generator_learning_rate",
        "discriminator_learning_rate",
        "beta1",
        "r1_gamma",
        "ema_decay",
        "num_train_epochs",
        "epochs",
        "batch_size",
        "max_steps",
        "per_device_train_batch_size",
        "gradient_accumulation_steps",
        "lr_scheduler_type",
        "warmup_steps",
        "weight_decay",
    ),
}
_UNMEASURED = (
    "inputs that differ from the test rows: other languages, topics, regions, periods",
    "differences between demographic groups",
    "adversarial inputs",
)
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_LOCAL_PATH = re.compile(r"(--?[\w.-]+=)?(?:file://|~|[A-Za-z]:)?[\\/][^\[\]{},\"']*")


@dataclass(frozen=True)
class Publication:
    """What a card can say only once it is known where and how the run is published.

    Attributes:
        repository: Hub id, or None for a run that is not published.
        what: The merged model in the root, the adapter in the root, or the merged model with the adapter in
            `adapter/`; a run without an adapter has the merged model alone.
        license: Licence that a person chose, or None to take the checkpoint's where nothing stands against it.
    """

    repository: str | None = None
    what: Literal["merged", "adapter", "both"] = "both"
    license: str | None = None


UNPUBLISHED = Publication()


def build_model_card(results: Results, publication: Publication = UNPUBLISHED) -> str:
    """Build the model card as Markdown with YAML front matter.

    Args:
        results: A run's results, schema version 1.
        publication: Where and how the run is published.

    Returns:
        The card's text. It holds no absolute local path, no Hub token and no text of the data.
    """
    body = load_card_template("model_card.md.jinja").render(_build_view(results, publication))
    body = re.sub(r"\n{3,}", "\n\n", body)
    return f"---\n{build_card_data(results, publication).to_yaml()}\n---\n\n{body}"


@functools.cache
def load_card_template(name: str) -> jinja2.Template:
    """Load a card's template of this package, with the filters that make names, numbers and prose fit for Markdown."""
    import importlib.resources

    import jinja2

    environment = jinja2.Environment(
        autoescape=False, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    environment.filters |= {
        "prose": escape_markdown,
        "code": _format_code,
        "count": format_count,
        "dollars": format_dollars,
        "duration": format_duration,
        "bytes": format_bytes,
        "metric": name_metric,
    }
    source = importlib.resources.files(__package__).joinpath(name).read_text("utf-8")
    return environment.from_string(source)


def build_card_data(results: Results, publication: Publication = UNPUBLISHED) -> ModelCardData:
    """Build the card's front matter; what is not known is left out.

    The library is the one that loads what lies in the repository's root.
    """
    from huggingface_hub import ModelCardData

    checkpoint, data = results.get("checkpoint") or {}, results.get("data") or {}
    hub_dataset = _hub_dataset(data)
    return ModelCardData(
        language=data.get("language") or None,
        license=choose_license(results, publication.license)[0],
        library_name=_name_library(results, publication),
        base_model=_hub_checkpoint(checkpoint),
        datasets=[hub_dataset] if hub_dataset else None,
        pipeline_tag=results["task"],
        tags=[results["method"], "startup-llm"],
        metrics=list(dict.fromkeys(HUB_METRICS.get(metric, metric) for metric in list_metrics(results))),
        model_name=_model_name(results, publication),
        eval_results=_list_eval_results(results) or None,
    )


def _name_library(results: Results, publication: Publication) -> str:
    load = results.get("load") or {}
    if publication.what == "adapter":
        return "peft"
    return load.get("library") or ("startup-llm" if load.get("python") else "transformers")


def choose_license(results: Results, chosen: str | None = None) -> tuple[str | None, list[str]]:
    """Choose the licence to declare, and say what stands against publishing.

    The weights derive from the checkpoint, so its licence is declared, unless it or the data's licence restricts what
    may be done with the result or either is not known: then the choice is a person's.

    Args:
        results: A run's results.
        chosen: Licence that a person chose; it is declared, and the restrictions are still told.

    Returns:
        The licence's identifier or None, and the warnings.
    """
    base = (results.get("checkpoint") or {}).get("license")
    data = (results.get("data") or {}).get("license")
    owners = [("checkpoint", base), ("training data", data)]
    from_scratch = (results.get("checkpoint") or {}).get("source") == FROM_SCRATCH
    warnings = []
    if from_scratch:
        del owners[0]
        if not chosen:
            warnings.append("The weights derive from no checkpoint, so no licence carries over.")
    for owner, license_id in owners:
        if not license_id:
            if not chosen:
                warnings.append(f"The licence of the {owner} is unknown; find it out before publishing.")
            continue
        warnings += describe_terms(owner, license_id)
        if set(re.split(r"[^a-z0-9]+", license_id.lower())) & {"other", "unknown"} and not chosen:
            warnings.append(f"The licence of the {owner} is given as {license_id}; read its terms before publishing.")
    if chosen:
        return chosen.lower(), warnings
    if warnings:
        warnings.append("Therefore no licence is declared here; choose a compatible one when you publish the model.")
        return None, warnings
    return base.lower(), []


def describe_terms(owner: str, license_id: str) -> list[str]:
    """Say what a licence forbids or asks for, by its identifier."""
    terms = set(re.split(r"[^a-z0-9]+", license_id.lower()))
    sentences = {
        "nc": f"The {owner} ({license_id}) may not be used commercially.",
        "nd": f"The licence of the {owner} ({license_id}) does not allow publishing derived works.",
        "sa": f"The {owner} ({license_id}) requires derived works to carry the same licence.",
    }
    return [sentence for term, sentence in sentences.items() if term in terms]


def escape_markdown(text: Any) -> str:
    """Make a text safe to stand in Markdown prose or in a table: no HTML, no formatting, one line."""
    escaped = html.escape(" ".join(str(text).split()), quote=False)
    return re.sub(r"([\\`*_\[\]|~#$])", r"\\\1", escaped)


def _build_view(results: Results, publication: Publication) -> dict[str, Any]:
    """Arrange the results for the template; what is absent is None or empty."""
    optional = (
        "confusions",
        "calibration",
        "decision",
        "numbers",
        "out_of_scope",
        "label_thresholds",
        "balance",
        "truncation",
        "audit",
        "reload_gate",
        "rows",
        "labels",
        "problem_type",
        "lock",
        "seed",
        "seconds",
        "prompted_llm",
        "export",
    )
    facts = ("stage_seconds", "peak_memory_bytes", "throughput", "versions", "hardware", "test")
    checkpoint, data = results.get("checkpoint") or {}, results.get("data") or {}
    class_score = find_class_score(results)
    unmeasured = [*_UNMEASURED]
    if results.get("labels") and not (results.get("out_of_scope") or {}).get("scores"):
        unmeasured.append("inputs that match none of its labels (out of scope)")
    if not results.get("calibration"):
        unmeasured.append("calibration of its confidence")
    if not results.get("energy"):
        unmeasured.append("energy")
    return {
        **{name: results.get(name) for name in (*optional, *facts)},
        "task": results["task"],
        "method": results["method"],
        "name": _model_name(results, publication),
        "publication": publication,
        "made_how": _METHODS.get(results["method"], results["method"]),
        "base": _hub_checkpoint(checkpoint) or (hide_path(checkpoint["name"]) if checkpoint else None),
        "base_on_hub": _hub_checkpoint(checkpoint) is not None,
        "checkpoint": checkpoint,
        "data": data,
        "dataset": _dataset_name(results),
        "hub_dataset": _hub_dataset(data),
        "languages": ", ".join(data.get("language") or ()),
        "detected_languages": describe_languages((results.get("audit") or {}).get("languages")),
        "notes": [hide_local_paths(note) for note in data.get("notes") or ()],
        "license_warnings": choose_license(results, publication.license)[1],
        "energy": describe_energy(results.get("energy")),
        "prediction_costs": list_prediction_costs(results.get("prediction_costs")),
        "verdict": build_verdict(results),
        "standing": describe_standing(results),
        "decides": results["decides"],
        "level": format_level(results),
        "metric_names": list_metrics(results),
        "signatures": results.get("signatures") or {},
        "model_rows": build_metric_table(results),
        "comparisons": [describe_comparison(comparison, results) for comparison in results.get("comparisons") or ()],
        "counted": results.get("counted") or ("row", "rows"),
        "class_score": class_score and name_metric(class_score),
        "weakest": [(label, scores.get(class_score) or 0.0) for label, scores in rank_classes(results)[:3]],
        "unmeasured": unmeasured,
        "files": list_files(results),
        "settings": _list_settings(results),
        "loading": _build_loading(results, publication),
        "requests": _build_requests(results),
        "command": _fence(hide_paths_in_command(results["command"]), "bash") if results.get("command") else None,
    }


def describe_standing(results: Results) -> list[str]:
    """Say for every other model how the run's model stands to it on the deciding metric, losses included."""
    model, decides = find_run_model(results), results["decides"]
    flipped: Mapping[Outcome, Outcome] = {"better": "worse", "worse": "better", "undecided": "undecided"}
    outcomes = {}
    for comparison in results.get("comparisons") or ():
        if comparison["metric"] != decides or model not in (comparison["a"], comparison["b"]):
            continue
        outcome = judge_comparison(comparison, results)
        if comparison["a"] == model:
            outcomes[comparison["b"]] = outcome
        else:
            outcomes[comparison["a"]] = flipped[outcome]
    groups: dict[str, list[str]] = {"better": [], "undecided": [], "worse": [], "not compared": []}
    for name in results["models"]:
        if name != model:
            groups[outcomes.get(name, "not compared")].append(name)
    phrases = {
        "better": "It is significantly better than",
        "undecided": "It is **not** significantly different from",
        "worse": "It is **significantly worse** than",
        "not compared": "No paired comparison was made with",
    }
    return [
        f"{phrases[group]} {', '.join(map(_format_code, names))} ({name_metric(decides)})."
        for group, names in groups.items()
        if names
    ]


def _list_eval_results(results: Results) -> list[EvalResult]:
    from huggingface_hub import EvalResult

    data = results.get("data") or {}
    dataset = _dataset_name(results)
    return [
        EvalResult(
            task_type=results["task"],
            dataset_type=_hub_dataset(data) or dataset,
            dataset_name=dataset,
            dataset_config=data.get("subset"),
            dataset_split="test",
            dataset_revision=data.get("revision"),
            metric_type=HUB_METRICS.get(metric, metric),
            metric_name=name_metric(metric),
            metric_value=entry["value"],
        )
        for metric, entry in results["models"].get(find_run_model(results), {}).items()
        if entry.get("value") is not None
    ]


def _model_name(results: Results, publication: Publication) -> str:
    if publication.repository:
        return publication.repository.split("/")[-1]
    return hide_path(results.get("run_name") or f"{_dataset_name(results)}-{results['method']}")


def _dataset_name(results: Results) -> str:
    """Name the dataset: its id, or its first file's name."""
    data = results.get("data") or {}
    if data.get("dataset"):
        return hide_path(data["dataset"])
    files = list_files(results)
    return files[0]["name"] if files else "unnamed data"


def _hub_dataset(data: Mapping[str, Any]) -> str | None:
    """Return the dataset's id where it is one of the Hub, not a shipped dataset or a local file."""
    name = data.get("dataset")
    if not name:
        return None
    from_hub = any("hub_split" in source or "fingerprint" in source for source in data.get("sources") or ())
    return name if from_hub or _HUB_ID.fullmatch(name) else None


def _hub_checkpoint(checkpoint: Mapping[str, Any]) -> str | None:
    """Return the checkpoint's id where it is one of the Hub, not a local folder."""
    name = checkpoint.get("name") or ""
    return name if _HUB_ID.fullmatch(name) and "local" not in (checkpoint.get("source") or "") else None


def _list_settings(results: Results) -> list[tuple[str, str]]:
    """List the settings that shape the weights, as (dotted name, value); unset ones are left out."""
    config = results.get("config") or {}
    return [
        (f"{section}.{name}", hide_path(str(config[section][name])))
        for section, names in _SETTINGS.items()
        if section != "lora" or results["method"] == "lora"
        for name in names
        if (config.get(section) or {}).get(name) is not None
    ]


def _build_loading(results: Results, publication: Publication) -> dict[str, str | None]:
    """Write the code that loads what is published: merged by the task's own code or a pipeline, an adapter by PEFT."""
    repository = publication.repository or f"OWNER/{_model_name(results, publication)}"
    further = "".join(
        f', {name}="{value}"' for name, value in (results.get("load") or {}).get("pipeline_arguments", {}).items()
    )
    merged = (
        f'from transformers import pipeline\n\npredict = pipeline("{results["task"]}", model="{repository}"{further})'
    )
    if code := (results.get("load") or {}).get("python"):
        merged = code.replace("REPOSITORY", repository)
    return {
        "merged": _fence(merged, "python") if publication.what != "adapter" else None,
        "adapter": _build_adapter_loading(results, repository, publication.what),
    }


def _build_requests(results: Results) -> dict[str, str] | None:
    """Write how the run is asked once it is served; None where that takes files."""
    examples = build_request_examples(results)
    if examples is None:
        return None
    return {name: text if name == "options" else _fence(text, name) for name, text in examples.items()}


def _build_adapter_loading(results: Results, repository: str, what: str) -> str | None:
    if results["method"] != "lora" or what == "merged" or results.get("export"):
        return None
    checkpoint = results.get("checkpoint") or {}
    load = results.get("load") or {}
    arguments, processor = load.get("adapter_model_kwargs"), load.get("auto_processor") or "AutoTokenizer"
    head = re.fullmatch(r"\w+?(For\w+)", checkpoint.get("architecture") or "")
    if arguments is None or not (load.get("auto_class") or head):
        return None
    base = _hub_checkpoint(checkpoint) or hide_path(checkpoint["name"])
    if checkpoint.get("revision"):
        arguments = {"revision": checkpoint["revision"], **arguments}
    lines = [f'    "{base}",', *(f"    {name}={value!r}," for name, value in arguments.items())]
    auto_class, name = load.get("auto_class") or f"AutoModel{head and head[1]}", PROCESSOR_NAMES[processor]
    place = "" if what == "adapter" else f', subfolder="{ADAPTER_FOLDER}"'
    code = (
        "from peft import PeftModel\n"
        f"from transformers import {auto_class}, {processor}\n\n"
        f'{name} = {processor}.from_pretrained("{repository}")\n'
        f"base = {auto_class}.from_pretrained(\n"
        + "\n".join(lines)
        + "\n)\n"
        + "base.config.pad_token_id = tokenizer.pad_token_id\n" * (name == "tokenizer")
        + f'model = PeftModel.from_pretrained(base, "{repository}"{place}).eval()'
    )
    return _fence(code, "python")


def hide_path(text: str) -> str:
    """Cut a value that is one absolute local path, blanks and all, to its last part."""
    match = _LOCAL_PATH.fullmatch(text)
    if match is None:
        return hide_local_paths(text)
    return (match[1] or "") + redact_tokens(re.split(r"[\\/]", text.rstrip("\\/"))[-1])


def hide_paths_in_command(command: str) -> str:
    """Cut the absolute local paths of a command line, quoted blanks and all, to their last part."""
    try:
        words = shlex.split(command)
    except ValueError:
        return hide_local_paths(command)
    return shlex.join(map(hide_path, words))


def _format_code(text: Any) -> str:
    """Write a name as code where Markdown leaves it alone, else as escaped prose."""
    line = " ".join(str(text).split())
    return escape_markdown(line) if not line or re.search(r"[<>&`|]", line) else f"`{line}`"


def _fence(code: str, language: str) -> str:
    marks = "`" * max([3, *(len(run) + 1 for run in re.findall("`+", code))])
    return f"{marks}{language}\n{code}\n{marks}"
