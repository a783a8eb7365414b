"""Detection runs from beginning to end: a config of the Hub's COCO, and scenes of digits."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from detectors import build_detector, paint_squares, write_coco, write_voc, write_yolo

CONFIGS = Path(__file__).parents[3] / "recipes" / "configs"
QUICK = [
    "--evaluation.resamples", 20, "--speed.compute_dtype", "float32", "--speed.attention_kernel", "eager",
    "--train.max_steps", 2,
]  # fmt: skip


def run_well(run_recipe, *words: object) -> str:
    code, out, err = run_recipe(*words)
    assert code == 0, err[-3000:]
    return out


def write_hub_rows(folder: Path) -> None:
    """Write rows in the columns of detection-datasets/coco."""
    import datasets

    names, real = ["red", "green", "blue"], datasets.Value("float64")
    objects = {
        "bbox_id": datasets.List(datasets.Value("int64")),
        "category": datasets.List(datasets.ClassLabel(names=names)),
        "bbox": datasets.List(datasets.List(real, length=4)),
        "area": datasets.List(real),
    }
    whole = {name: datasets.Value("int64") for name in ("image_id", "width", "height")}
    features = datasets.Features({"image": datasets.Image(), **whole, "objects": objects})
    folder.mkdir()
    for split, first, count in (("train", 0, 24), ("val", 100, 8)):
        rows = []
        for number in range(first, first + count):
            image, squares = paint_squares(number)
            stream = io.BytesIO()
            image.save(stream, "jpeg", quality=95)
            boxes = [[x, y, x + w, y + h] for _, (x, y, w, h) in squares]
            if number == 5:
                boxes[0] = [3, 3, 3, 9]  # COCO has boxes without an area too
            rows.append(
                {
                    "image": {"bytes": stream.getvalue(), "path": None},
                    "image_id": number, "width": image.width, "height": image.height,
                    "objects": {
                        "bbox_id": list(range(number * 10, number * 10 + len(boxes))),
                        "category": [names.index(name) for name, _ in squares],
                        "bbox": boxes, "area": [(r - x) * (b - y) for x, y, r, b in boxes],
                    },
                }
            )  # fmt: skip
        datasets.Dataset.from_list(rows, features=features).to_parquet(folder / f"{split}.parquet")


@pytest.fixture(scope="module")
def coco_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("coco")
    write_hub_rows(folder / "rows")
    build_detector("rt_detr", folder / "checkpoint")
    return folder


@pytest.mark.fresh_gate
def test_coco_rtdetr_trains_an_adapter_on_coco_s_own_columns(coco_run, run_recipe):
    run = coco_run / "run"
    out = run_well(
        run_recipe, "finetune", "--config", CONFIGS / "coco_rtdetr.yaml", "--data.data_dir", coco_run / "rows",
        "--model.checkpoint", coco_run / "checkpoint", "--run_dir", run, *QUICK, "--lora.rank", 4,
    )  # fmt: skip
    assert "annotation 50: its box [3, 3, 0, 6] has no area" in out
    results = json.loads((run / "results.json").read_text())
    assert results["decides"] == "mean_average_precision"
    assert results["data"]["license"] == "cc-by-4.0"
    assert set(results["models"]) == {"lora", "mean-boxes", "components-nearest-pixels"}
    gate = {name: value for name, value in results["reload_gate"].items() if name.endswith("difference")}
    assert set(gate) == {"merged_max_difference", "pipeline_max_difference", "adapter_max_difference"}
    assert max(gate.values()) < 1e-3
    assert set(results["per_class"]) == {"red", "green", "blue"}
    assert {item["kind"] for item in results["gallery"]} == {"image"}
    page, card = (run / "report.html").read_text(), (run / "README.md").read_text()
    assert "Lowest average precision first." in page
    assert 'pipeline("object-detection"' in card
    assert "Classes with the lowest average precision" in card

    # another process measures the same, also where the classes stand in another order
    squares = coco_run / "other"
    content = write_coco(squares, squares / "test.json", 8, first=100)
    ids = {"red": 9, "green": 2, "blue": 4}
    names = {entry["id"]: entry["name"] for entry in content["categories"]}
    for entry in content["annotations"]:
        entry["category_id"] = ids[names[entry["category_id"]]]
    content["categories"] = [{"id": number, "name": name} for name, number in ids.items()]
    (squares / "test.json").write_text(json.dumps(content))
    run_well(
        run_recipe, "evaluate", "--model", run, "--data.test_file", squares / "test.json",
        "--run_dir", coco_run / "measured", "--evaluation.resamples", 20,
    )  # fmt: skip
    (entry,) = json.loads((coco_run / "measured" / "results.json").read_text())["entries"]
    assert set(entry["metrics"]) == {"mean_average_precision", "average_precision_50", "average_recall"}


def test_files_of_a_folder_are_answered_as_the_pipeline_answers(coco_run, run_recipe):
    import torch
    from transformers import AutoModelForObjectDetection, pipeline

    folder, pictures = build_detector("rt_detr", coco_run / "sure"), coco_run / "pictures"
    model = AutoModelForObjectDetection.from_pretrained(folder)
    torch.nn.init.constant_(model.model.decoder.class_embed[-1].bias, 0.0)  # half of what it finds is answered
    model.save_pretrained(folder)
    pictures.mkdir()
    for number in range(3):
        paint_squares(number)[0].save(pictures / f"{number}.png")
    words = ["--run", folder, "--task", "object-detection", "--input", pictures]
    run_well(run_recipe, "predict", *words, "--output", coco_run / "answers.jsonl")
    answers = [json.loads(line) for line in (coco_run / "answers.jsonl").read_text().splitlines()]
    assert [answer["file"] for answer in answers] == ["0.png", "1.png", "2.png"]
    assert all(answer["objects"] for answer in answers)
    find = pipeline("object-detection", model=str(folder), device="cpu")
    for answer in answers:
        theirs = find(str(pictures / answer["file"]))
        assert [found["label"] for found in answer["objects"]] == [found["label"] for found in theirs]
        for own, their in zip(answer["objects"], theirs, strict=True):
            assert own["score"] == pytest.approx(their["score"], abs=1e-4)
            assert own["box"] == pytest.approx(their["box"], abs=1)
    run_well(run_recipe, "predict", *words, "--output", coco_run / "answers.csv")
    assert (coco_run / "answers.csv").read_text().startswith("file,objects")


@pytest.mark.slow
def test_digits_detection_runs_and_its_checkpoints_are_whole(run_recipe, tmp_path):
    from safetensors import safe_open
    from transformers import AutoModelForObjectDetection

    words = ["--config", CONFIGS / "digits_detection.yaml", "--data.max_train_rows", 40, "--data.max_test_rows", 30]
    words += [*QUICK, "--model.width", 16, "--train.max_steps", 4]
    run_well(run_recipe, "pretrain", *words, "--run_dir", tmp_path / "run")
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["method"] == "rt-detr"
    assert results["data"]["license"] == "cc-by-4.0"
    assert results["reload_gate"]["pipeline_max_difference"] < 1e-3
    assert results["models"]["components-nearest-pixels"]["average_precision_50"]["value"] > 0.2
    known = set(AutoModelForObjectDetection.from_pretrained(tmp_path / "run" / "model").state_dict())
    (checkpoint, *_) = (tmp_path / "run").glob("checkpoints/*/model.safetensors")
    with safe_open(checkpoint, "pt") as weights:  # by these names a run is resumed, and the best weights are read
        assert set(weights.keys()) == known


def test_a_mistake_in_the_boxes_is_one_line(run_recipe, tmp_path, coco_run):
    content = write_coco(tmp_path, tmp_path / "train.json", 8)
    content["annotations"][0]["bbox"] = [90, 1, 5, 5]
    (tmp_path / "train.json").write_text(json.dumps(content))
    code, _, err = run_recipe(
        "finetune", "--task", "object-detection", "--model.checkpoint", coco_run / "checkpoint",
        "--data.data_dir", tmp_path, "--run_dir", tmp_path / "run",
    )  # fmt: skip
    assert code == 2
    assert "0.png: annotation 1: its box [90, 1, 5, 5] lies outside of the image" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("form", "more"), [pytest.param("YOLO", [], marks=pytest.mark.slow), ("Pascal VOC", ["--preflight.only", "true"])]
)
def test_a_folder_of_an_annotation_tool_is_fine_tuned_as_it_comes(run_recipe, tmp_path, coco_run, form, more):
    if form == "YOLO":
        write_yolo(tmp_path, "", 20, beside=True)
        (tmp_path / "data.yaml").write_text("train: .\nnames: [red, green, blue]\n")
    else:
        write_voc(tmp_path, tmp_path, 20)
    out = run_well(
        run_recipe, "finetune", "--task", "object-detection", "--model.checkpoint", coco_run / "checkpoint",
        "--data.data_dir", tmp_path, "--run_dir", tmp_path / "run", *QUICK, "--lora.rank", 4, *more,
    )  # fmt: skip
    assert f"read as {form}'s boxes, 3 classes" in out
