from __future__ import annotations

import copy
import re

import pytest
import yaml
from huggingface_hub import ModelCard, constants, metadata_load
from huggingface_hub.repocard_data import eval_results_to_model_index, model_index_to_eval_results

from startup_llm.hub.model_card import (
    Publication,
    build_model_card,
    choose_license,
    describe_standing,
    escape_markdown,
)

RESULTS = {
    "schema_version": 1,
    "task": "text-classification",
    "method": "lora",
    "decides": "accuracy",
    "problem_type": "single_label_classification",
    "run_name": "helpdesk-lora",
    "test": {"rows": 900, "sha256": "97f2"},
    "rows": {"train": 1500, "validation": 300, "test": 900},
    "labels": ["refund_request", "refund_status"],
    "models": {
        "majority": {"accuracy": {"value": 0.083, "low": 0.07, "high": 0.1}},
        "svm": {"accuracy": {"value": 0.91, "low": 0.89, "high": 0.93}},
        "lora": {
            "accuracy": {"value": 0.908, "low": 0.889, "high": 0.927},
            "macro_f1": {"value": 0.9, "low": 0.88, "high": 0.92},
        },
    },
    "comparisons": [
        {"a": "lora", "b": "majority", "metric": "accuracy", "difference": 0.825, "low": 0.8, "high": 0.85},
        {"a": "lora", "b": "svm", "metric": "accuracy", "difference": -0.002, "low": -0.02, "high": 0.016},
    ],
    "confusions": [
        {"label": "refund_request", "predicted": "refund_status", "rows": 9, "examples": ["my secret text"]}
    ],
    "mistakes": [{"row": 1, "text": "my other secret text", "label": "a", "predicted": "b", "confidence": 0.9}],
    "gallery": [{"title": "Entities found", "kind": "spans", "text": "my third secret text", "spans": []}],
    "checkpoint": {
        "name": "sentence-transformers/all-MiniLM-L6-v2",
        "revision": None,
        "source": "packaged",
        "sha256": "53aa",
        "architecture": "BertForSequenceClassification",
        "pooling": "mean",
        "parameters": 22713216,
        "trainable_parameters": 1034124,
        "license": "apache-2.0",
    },
    "data": {
        "dataset": "helpdesk",
        "license": "cc-by-4.0",
        "language": ["en"],
        "notes": [],
        "sources": [{"split": "train", "files": ["train.jsonl"], "sha256": "048b", "rows": 1500}],
    },
    "load": {"adapter_model_kwargs": {"num_labels": 2, "num_hidden_layers": 7}},
    "reload_gate": {"rows": 64, "adapter_max_difference": 1.2e-6, "merged_max_difference": 2.1e-6, "tolerance": 0.001},
    "command": "accelerate launch recipes/finetune.py --config recipes/configs/helpdesk_lora.yaml",
    "config": {"lora": {"rank": 16}, "train": {"learning_rate": 5e-4}},
    "seed": 42,
    "seconds": 97.3,
    "peak_memory_bytes": 1.6e9,
    "throughput": {"train_examples_per_second": 84.5},
    "versions": {"python": "3.11.7"},
    "energy": None,
}
REQUIRED = (
    "schema_version",
    "task",
    "method",
    "decides",
    "test",
    "models",
    "comparisons",
    "seconds",
    "peak_memory_bytes",
    "throughput",
    "versions",
)
HOSTILE = "<script>alert(1)</script> | [x](javascript:1) `a` *b*"


def change(**sections) -> dict:
    """Copy the results with some keys of some sections changed."""
    results = copy.deepcopy(RESULTS)
    for section, changes in sections.items():
        results[section] = {**results[section], **changes} if isinstance(changes, dict) else changes
    return results


def test_the_front_matter_says_what_the_hub_asks(tmp_path):
    path = tmp_path / "README.md"
    path.write_text(build_model_card(RESULTS))
    metadata = metadata_load(path)
    assert {key: value for key, value in metadata.items() if key != "model-index"} == {
        "base_model": "sentence-transformers/all-MiniLM-L6-v2",
        "language": ["en"],
        "library_name": "transformers",
        "license": "apache-2.0",
        "metrics": ["accuracy", "f1"],
        "pipeline_tag": "text-classification",
        "tags": ["lora", "startup-llm"],
    }


def test_the_front_matter_survives_the_hub_client_s_round_trip():
    text = build_model_card(RESULTS)
    data = ModelCard(text).data
    assert [(result.metric_type, result.metric_value) for result in data.eval_results] == [
        ("accuracy", 0.908),
        ("f1", 0.9),
    ]
    index = yaml.safe_load(text.split("---\n")[1])["model-index"]
    name, eval_results = model_index_to_eval_results(index)
    assert name == "helpdesk-lora"
    assert eval_results_to_model_index(name, eval_results) == index


def test_only_hub_ids_become_metadata():
    local = change(checkpoint={"name": "/home/me/models/mine", "source": "local folder"})
    assert "base_model" not in ModelCard(build_model_card(local)).data.to_dict()
    relative = change(checkpoint={"name": "models/mine", "source": "local folder"})
    assert "base_model" not in ModelCard(build_model_card(relative)).data.to_dict()
    assert "datasets" not in ModelCard(build_model_card(RESULTS)).data.to_dict()
    glue = change(data={"dataset": "nyu-mll/glue", "subset": "sst2"})
    assert ModelCard(build_model_card(glue)).data.datasets == ["nyu-mll/glue"]


def test_a_fully_tuned_model_is_a_transformers_model_without_an_adapter():
    results = change(method="full")
    results["models"]["full"] = results["models"].pop("lora")
    text = build_model_card(results)
    assert ModelCard(text).data.library_name == "transformers"
    assert "PeftModel" not in text


def test_the_card_says_that_a_baseline_was_not_beaten():
    assert describe_standing(RESULTS) == [
        "It is significantly better than `majority` (accuracy).",
        "It is **not** significantly different from `svm` (accuracy).",
    ]
    assert "It is **not** significantly different from `svm`" in build_model_card(RESULTS)


def test_the_card_says_that_a_baseline_is_better_whichever_way_the_pair_is_written():
    lost = {"a": "svm", "b": "lora", "metric": "accuracy", "difference": 0.05, "low": 0.03, "high": 0.07}
    assert "It is **significantly worse** than `svm` (accuracy)." in describe_standing(change(comparisons=[lost]))


def test_a_baseline_without_a_comparison_is_not_passed_over():
    assert describe_standing(change(comparisons=[])) == [
        "No paired comparison was made with `majority`, `svm` (accuracy)."
    ]


def test_a_probe_s_figures_reach_the_metadata_under_the_probe_s_name():
    models = {"majority": RESULTS["models"]["majority"], "linear-probe": RESULTS["models"]["lora"]}
    results = change(method="probe", comparisons=[RESULTS["comparisons"][0] | {"a": "linear-probe"}])
    results["models"] = models
    assert ModelCard(build_model_card(results)).data.eval_results[0].metric_value == 0.908
    assert describe_standing(results) == ["It is significantly better than `majority` (accuracy)."]


def test_every_model_stands_in_the_results_with_its_interval():
    text = build_model_card(RESULTS)
    assert "| **lora** | 90.8 % (88.9 to 92.7) | 90.0 % (88.0 to 92.0) |" in text
    assert "| svm | 91.0 % (89.0 to 93.0) | – |" in text
    assert text.index("| svm |") < text.index("| **lora** |") < text.index("| majority |")


def test_what_was_not_measured_is_said():
    text = build_model_card(RESULTS)
    assert "- Energy: not measured" in text
    assert "- calibration of its confidence" in text
    energy = {"kilowatt_hours": 0.012, "parts": {"GPU": 0.012}}
    calibration = {"expected_calibration_error": 0.03, "bins": []}
    measured = build_model_card(RESULTS | {"calibration": calibration, "energy": energy})
    assert "Expected calibration error on the test rows: 3.0 points." in measured
    assert "- Energy: GPU 0.012 kWh; that of the processor, if any, was not measured" in measured
    assert "- energy\n" in text
    assert "- energy\n" not in measured
    assert "can be trusted (calibration)" not in measured


def test_no_text_of_the_data_is_published():
    assert "secret" not in build_model_card(RESULTS)


def test_no_absolute_path_and_no_token_is_published():
    results = change(
        run_name="/home/me/runs/mine",
        command="recipes/finetune.py --data.train_file '/home/me/my data/train.csv' --a=/home/me/b.csv hf_abcdefghijk",
        checkpoint={"name": "/home/me/models/tiny", "source": "local folder"},
        data={
            "dataset": None,
            "notes": ["/home/me/notes.txt was read"],
            "sources": [{"split": "train", "files": ["/home/me/train.csv"]}],
        },
        config={"lora": {"rank": 16, "target_modules": "/home/me/x"}},
    )
    text = build_model_card(results)
    assert re.findall(r"/home|my data|hf_a", text) == []
    assert "--data.train_file train.csv --a=b.csv" in text
    assert text.startswith("---\n")
    assert "name: mine\n" in text


def test_labels_and_notes_cannot_carry_html_or_formatting():
    results = change(labels=[HOSTILE], data={"notes": [HOSTILE]}, hardware=HOSTILE, sentences=[HOSTILE])
    results["confusions"] = [{"label": HOSTILE, "predicted": HOSTILE, "rows": 1}]
    text = build_model_card(results)
    assert "<script" not in text
    assert "[x](javascript" not in text
    row = next(line for line in text.splitlines() if line.endswith("| 1 |"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 4


def test_escaped_text_stays_on_one_line():
    assert escape_markdown("a\n\n# b") == r"a \# b"


def test_the_licence_of_the_base_is_declared_where_nothing_forbids_it():
    assert choose_license(RESULTS) == ("apache-2.0", [])


@pytest.mark.parametrize(
    ("changes", "warning"),
    [
        ({"data": {"license": "cc-by-nc-sa-4.0"}}, "training data (cc-by-nc-sa-4.0) may not be used commercially"),
        ({"data": {"license": "cc-by-nd-4.0"}}, "training data (cc-by-nd-4.0) does not allow publishing derived"),
        (
            {"data": {"license": "cc-by-sa-4.0"}},
            "training data (cc-by-sa-4.0) requires derived works to carry the same",
        ),
        ({"data": {"license": None}}, "licence of the training data is unknown"),
        ({"checkpoint": {"license": None}}, "licence of the checkpoint is unknown"),
        ({"checkpoint": {"license": "cc-by-nc-4.0"}}, "checkpoint (cc-by-nc-4.0) may not be used commercially"),
    ],
)
def test_a_licence_that_restricts_is_warned_of_and_none_is_declared(changes, warning):
    text = build_model_card(change(**changes))
    assert warning in text
    assert ModelCard(text).data.license is None


def test_the_adapter_s_code_names_the_class_and_the_arguments_it_needs():
    text = build_model_card(RESULTS)
    code = text.split("```python\n")[2].split("\n```")[0]
    compile(code, "card", "exec")
    assert "base = AutoModelForSequenceClassification.from_pretrained(" in code
    assert "    num_labels=2,\n    num_hidden_layers=7,\n" in code


def test_a_published_card_shows_how_to_load_what_lies_there():
    both = build_model_card(RESULTS, Publication("me/mine", "both"))
    assert 'model="me/mine")' in both
    assert '"me/mine", subfolder="adapter")' in both
    assert "OWNER" not in both
    assert "# mine\n" in both
    merged = build_model_card(RESULTS, Publication("me/mine", "merged"))
    assert "pipeline(" in merged
    assert "PeftModel" not in merged
    adapter = build_model_card(RESULTS, Publication("me/mine", "adapter"))
    assert "pipeline(" not in adapter
    assert 'PeftModel.from_pretrained(base, "me/mine").eval()' in adapter
    assert ModelCard(adapter).data.library_name == "peft"


def test_a_licence_that_a_person_chose_is_declared_and_the_restrictions_are_still_told():
    results = change(data={"license": "cc-by-nc-4.0"}, checkpoint={"license": None})
    text = build_model_card(results, Publication("me/mine", license="CC-BY-NC-4.0"))
    assert ModelCard(text).data.license == "cc-by-nc-4.0"
    assert "training data (cc-by-nc-4.0) may not be used commercially" in text
    assert "no licence is declared" not in text
    assert "unknown" not in text


def test_the_command_cannot_close_its_own_code_block():
    text = build_model_card(change(command="echo '```' done"))
    assert "````bash\necho '```' done\n````" in text


def test_the_required_keys_alone_make_a_card_for_any_task():
    results = {key: RESULTS[key] for key in REQUIRED} | {"task": "token-classification"}
    text = build_model_card(results)
    assert ModelCard(text).data.pipeline_tag == "token-classification"
    assert 'pipeline("token-classification"' in text
    assert "The command was not recorded." in text
    assert "None" not in text


def test_the_hub_s_own_check_takes_the_card(hub, monkeypatch):
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    ModelCard(build_model_card(RESULTS)).validate(repo_type="model")
    assert ("POST", "/api/validate-yaml") in hub.requests


def test_the_card_counts_the_rows_that_were_left_out_and_states_the_languages_that_were_recognised():
    languages = {"texts_by_language": {"de": 930, "en": 70}, "texts": 1000}
    audit = {"level": "quick", "findings": [], "notes": [], "languages": languages}
    results = change(data={"language": None, "left_out": {"empty text": 3, "label of one row": 1}})
    text = build_model_card({**results, "audit": audit})
    assert "Rows that could not be used were left out: empty text 3, label of one row 1." in text
    assert "recognised in the rows: de 93%, en 7% (1,000 of 1,000 texts inspected could be told)" in text
    assert "The data's language: en." in build_model_card({**RESULTS, "audit": audit})
