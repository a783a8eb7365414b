from __future__ import annotations

import numpy as np
import pytest
from detectors import ARCHITECTURES, build_detector, paint_squares, write_coco

from startup_llm.config import LoraConfig, ModelConfig
from startup_llm.errors import UserError
from startup_llm.models.checkpoints import load_checkpoint
from startup_llm.tasks import load_task
from startup_llm.tasks.vision.detector import compute_detections
from startup_llm.tasks.vision.metrics import AVERAGE_PRECISION_50
from startup_llm.tasks.vision.options import DetectionData, ScratchDetector, ScratchVit

TAG = "object-detection"
SMALL = ScratchDetector(name="rt-detr", image_size=48, width=32, layers=1, heads=2, queries=6, dropout=0.0)


@pytest.fixture(scope="module")
def squares(tmp_path_factory):
    """Pictures of two sizes, so that a batch of them is padded where the checkpoint keeps their shape."""
    folder = tmp_path_factory.mktemp("squares")
    write_coco(folder / "train", folder / "train" / "_annotations.coco.json", 40)
    write_coco(folder / "valid", folder / "valid" / "_annotations.coco.json", 6, first=100)
    write_coco(folder / "test", folder / "test" / "_annotations.coco.json", 12, first=200, size=(64, 40))
    return load_task(TAG).load_data(DetectionData(data_dir=str(folder)))


def build(folder, squares, model_type: str):
    task, checkpoint = load_task(TAG), load_checkpoint(ModelConfig(checkpoint=str(build_detector(model_type, folder))))
    processor = task.load_processor(checkpoint, ModelConfig())
    return task, processor, task.build_model(checkpoint, processor, squares, ModelConfig(), None), checkpoint


def encode(task, processor, rows, *, labels: bool = False) -> dict:
    kept = ["pixel_values", "labels"] if labels else ["pixel_values"]
    return task.build_collator(processor)(task.encode(rows, processor)[0].select_columns(kept).to_list())


@pytest.mark.parametrize("model_type", [name for name in ARCHITECTURES if name != "rt_detr_v2"])
def test_an_adapter_with_its_heads_reads_back_as_it_was_trained(squares, tmp_path, model_type):
    import torch
    from peft import PeftModel

    from startup_llm.models.adapters import add_lora

    task, processor, built, _ = build(tmp_path / "base", squares, model_type)
    model = add_lora(
        built.model, LoraConfig(rank=4), task_type=None, base_name="base", head_modules=built.head_modules
    )
    batch = encode(task, processor, squares.splits["train"].select(range(8)), labels=True)
    before = {name: value.clone() for name, value in model.named_parameters() if value.requires_grad}
    statistics = {name: value.clone() for name, value in model.named_buffers() if "running" in name}
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], 1e-2)
    model.train()
    for _ in range(3):
        loss, _ = task.compute_loss(model, batch, processor)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    moved = {name for name, value in model.named_parameters() if name in before and not value.equal(before[name])}
    assert any("lora_B" in name for name in moved)
    assert any("modules_to_save" in name for name in moved)
    assert all(value.equal(statistics[name]) for name, value in model.named_buffers() if name in statistics)
    model.eval().save_pretrained(tmp_path / "adapter")
    base = task.saved_model.load(str(tmp_path / "base"), **built.load_arguments)
    again = PeftModel.from_pretrained(base, str(tmp_path / "adapter")).eval()
    asked = encode(task, processor, squares.splits["test"])
    with torch.inference_mode():
        expected, found = (task.saved_model.compute_scores(one, asked, processor) for one in (model, again))
    for a, b in zip(expected, found, strict=True):
        assert np.ptp(a) > 0.1
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("model_type", ["detr", "rt_detr"])
def test_an_image_is_answered_as_by_the_pipeline_and_whatever_stands_beside_it(squares, tmp_path, model_type):
    import torch
    from datasets import concatenate_datasets

    task, processor, built, _ = build(tmp_path / "base", squares, model_type)
    built.model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    assert task.saved_model.check_pipeline(str(tmp_path / "model"), squares.splits["test"], []) < 1e-5

    mixed = concatenate_datasets([squares.splits["train"].select(range(3)), squares.splits["test"].select(range(3))])
    batch = encode(task, processor, mixed)
    assert ("pixel_mask" in batch) == (model_type == "detr")
    with torch.inference_mode():
        together = task.saved_model.compute_scores(built.model.eval(), batch, processor)
        alone = [
            task.saved_model.compute_scores(built.model, encode(task, processor, mixed.select([row])), processor)[0]
            for row in range(6)
        ]
    for a, b in zip(together, alone, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("softmax", [True, False])
def test_detections_are_those_of_the_library_s_processors(softmax):
    import torch
    from transformers.models.detr.image_processing_pil_detr import DetrImageProcessorPil
    from transformers.models.rt_detr.image_processing_pil_rt_detr import RTDetrImageProcessorPil
    from transformers.models.rt_detr.modeling_rt_detr import RTDetrObjectDetectionOutput

    torch.manual_seed(0)
    logits, boxes = torch.randn(1, 9, 4 if softmax else 3), torch.rand(1, 9, 4)
    outputs = RTDetrObjectDetectionOutput(logits=logits, pred_boxes=boxes)
    processor = DetrImageProcessorPil() if softmax else RTDetrImageProcessorPil()
    theirs = processor.post_process_object_detection(outputs, threshold=0.0, target_sizes=[(1, 1)])[0]
    order = theirs["scores"].argsort(descending=True)
    ours = compute_detections(logits[0].numpy(), boxes[0].numpy(), 3)
    np.testing.assert_allclose(ours[:, 1], theirs["scores"][order], rtol=1e-5)
    np.testing.assert_array_equal(ours[:, 0], theirs["labels"][order])
    corners = np.column_stack([ours[:, 2:4], ours[:, 2:4] + ours[:, 4:]])
    np.testing.assert_allclose(corners, theirs["boxes"][order], atol=1e-6)


def test_a_batch_s_loss_is_that_of_its_parts_by_their_boxes(squares, tmp_path):
    import torch

    task, processor, built, _ = build(tmp_path / "base", squares, "detr")
    rows = squares.splits["train"]
    whole = encode(task, processor, rows.select(range(6)), labels=True)
    built.model.eval()
    with torch.no_grad():
        loss, outputs = task.compute_loss(built.model, whole, processor)
        counts, parts = task.count_targets(whole), []
        for start in (0, 2, 4):
            part = {name: values[start : start + 2] for name, values in whole.items()}
            share = counts[start : start + 2].sum() / counts.sum()
            parts.append(task.compute_loss(built.model, part, processor)[0] * share)
    assert outputs.shape == (6, 6, 4 + 4)
    assert counts.tolist() == [len(objects["bbox"]) for objects in rows.select(range(6))["objects"]]
    # DETR's loss of classes is a mean over queries, which parts of other counts weigh a little otherwise
    assert float(sum(parts)) == pytest.approx(float(loss), rel=0.05)


def test_validation_is_measured_as_the_test_is(squares, tmp_path):
    import torch

    task, processor, built, _ = build(tmp_path / "base", squares, "rt_detr")
    rows = squares.splits["validation"]
    batch = encode(task, processor, rows, labels=True)
    with torch.inference_mode():
        _, outputs = task.compute_loss(built.model.eval(), batch, processor)
        asked = {name: values for name, values in batch.items() if name != "labels"}
        decided = task.read_predictions(task.compute_outputs(built.model, asked, processor), rows, rows, squares)
    told = task.read_validation(outputs.numpy(), batch["labels"].numpy(), squares)
    for metric in task.metrics(squares):
        expected = metric.compute(task.references(rows), decided)
        assert metric.compute(*told) == pytest.approx(expected, abs=1e-6)


def test_a_small_rt_detr_learns_to_find_squares_and_reads_back(squares, tmp_path):
    import torch

    task = load_task(TAG)
    torch.manual_seed(0)
    processor, built = task.reference_models.build(squares, SMALL, "eager")
    batch = encode(task, processor, squares.splits["train"].select(range(8)), labels=True)
    optimizer = torch.optim.Adam(built.model.parameters(), 3e-3)
    built.model.train()
    losses = []
    for _ in range(40):
        loss, _ = task.compute_loss(built.model, batch, processor)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]
    task.reference_models.save(built.model, processor, squares, tmp_path)
    model, again = task.saved_model.load(str(tmp_path)).eval(), task.saved_model.load_processor(str(tmp_path))
    asked = encode(task, again, squares.splits["test"])
    with torch.inference_mode():
        expected, found = (task.saved_model.compute_scores(one, asked, again) for one in (built.model.eval(), model))
    np.testing.assert_allclose(np.stack(expected), np.stack(found), atol=1e-4)
    assert model.config.id2label == {0: "red", 1: "green", 2: "blue"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_size": 50}, r"model.image_size \(50\) must be a multiple of 16; try 64"),
        ({"queries": 500}, r"model.queries \(500\) must be from 1 to 45"),
    ],
)
def test_a_model_that_cannot_be_is_refused(squares, change, message):
    import dataclasses

    with pytest.raises(UserError, match=message):
        load_task(TAG).reference_models.build(squares, dataclasses.replace(SMALL, **change), "eager")


def test_another_reference_model_is_refused(squares):
    with pytest.raises(UserError, match=r"model.name vit: object-detection has no reference model of that name"):
        load_task(TAG).reference_models.build(squares, ScratchVit(name="vit"), "eager")


def test_a_probe_and_an_adapter_on_shared_heads_are_refused(squares, tmp_path):
    with pytest.raises(UserError, match="--method probe: object-detection has no linear probe"):
        load_task(TAG).check_method("probe", squares)
    _, _, built, _ = build(tmp_path, squares, "rt_detr_v2")
    assert "rt_detr_v2 share one head" in built.no_adapter


def test_a_checkpoint_that_finds_nothing_is_refused(squares, tiny_checkpoint):
    task, checkpoint = load_task(TAG), load_checkpoint(ModelConfig(checkpoint=str(tiny_checkpoint("bert"))))
    with pytest.raises(UserError, match="no usable image processor"):
        task.load_processor(checkpoint, ModelConfig())
    with pytest.raises(UserError, match="type bert, which detects no objects"):
        task.build_model(checkpoint, None, squares, ModelConfig(), None)


def test_connected_patches_find_squares_and_mean_boxes_do_not(squares):
    task, test = load_task(TAG), squares.splits["test"]
    scores = {
        name: AVERAGE_PRECISION_50.compute(task.references(test), predict(squares.splits, squares))
        for name, predict in task.baselines(squares).items()
    }
    assert scores["components-nearest-pixels"] > 0.3
    assert scores["mean-boxes"] < 0.2


def test_a_picture_shows_true_and_found_boxes(squares):
    import base64
    import io

    from PIL import Image

    task, test = load_task(TAG), squares.splits["test"].select([0])
    left, top, width, height = test[0]["objects"]["bbox"][0]
    found = {"labels": [0, 1], "boxes": [[left + 2, top, width, height], [0, 0, 5, 5]], "scores": [0.9, 0.2]}
    (item,) = task.describe_errors(test, [], [found], squares)["gallery"]
    image, _ = paint_squares(200, (64, 40))
    picture = Image.open(io.BytesIO(base64.b64decode(item["png_base64"])))
    assert picture.size == (64 * 6, 40 * 6) == (image.width * 6, image.height * 6)
    colors = {color for _, color in picture.convert("RGB").getcolors(maxcolors=10**6)}
    assert {(0x1D, 0x5F, 0xA8), (0xD9, 0x60, 0x1A)} <= colors
    assert "found red (dashed orange)" in item["caption"]
