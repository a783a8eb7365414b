"""The page of a Space: a run's model, asked by a text. This file runs by itself, with the model in a folder beside it.

`answer` is what predict.py answers: scores by the temperature that the run chose, labels by its thresholds, and
whether a person should look at the answer.
"""

import functools
import json
import math
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


@functools.cache
def read_settings():
    """Return what the run says of itself: task, title, description, examples, and how its pipeline is made."""
    return json.loads((FOLDER / "space.json").read_text(encoding="utf-8"))


@functools.cache
def load():
    """Return the pipeline of the model, and the model's config."""
    from transformers import pipeline

    settings = read_settings()
    model = pipeline(settings["task"], model=str(FOLDER / "model"), **settings["pipeline_arguments"])
    return model, model.model.config


def answer(text):
    """Return what the model says of a text: label and score, labels, a number, or entities."""
    model, config = load()
    if read_settings()["task"] == "token-classification":
        return {"entities": [_name_entity(found) for found in model(text)]}
    raw = {found["label"]: found["score"] for found in _compute_logits(model, text)}
    if config.problem_type == "regression":
        return {"score": next(iter(raw.values()))}
    if config.problem_type == "multi_label_classification":
        scores = {name: 1 / (1 + math.exp(-value)) for name, value in raw.items()}
        thresholds = getattr(config, "label_thresholds", None) or {}
        return {"labels": [name for name in scores if scores[name] > thresholds.get(name, 0.5)], "scores": scores}
    decision = getattr(config, "decision", None) or {}
    scores = _compute_softmax(raw, decision.get("temperature", 1.0))
    best = max(scores, key=scores.get)
    found = {"label": best, "score": scores[best]}
    if decision.get("threshold") is not None:
        found["needs_human"] = scores[best] < decision["threshold"]
    if decision.get("set_threshold") is not None:
        likely = sorted(scores, key=scores.get, reverse=True)
        found["possible_labels"] = [
            name for name in likely if name == best or scores[name] >= decision["set_threshold"]
        ]
    return found


def _compute_logits(model, text):
    found = model(text, top_k=None, function_to_apply="none", truncation=True)
    places = {name: place for place, name in model.model.config.id2label.items()}
    return sorted(found, key=lambda label: places[label["label"]])


def _compute_softmax(logits, temperature):
    largest = max(logits.values())
    powers = {name: math.exp((value - largest) / temperature) for name, value in logits.items()}
    total = sum(powers.values())
    return {name: power / total for name, power in powers.items()}


def _name_entity(found):
    entity = {"type": found["entity_group"], "start": int(found["start"]), "end": int(found["end"])}
    return {**entity, "score": float(found["score"])}


def show(text):
    """Return what the page shows of a text: the answer in its own form, and a line about it."""
    if not text.strip():
        return None, "Write a text first."
    found = answer(text)
    if "entities" in found:
        spans = [{"entity": one["type"], "start": one["start"], "end": one["end"]} for one in found["entities"]]
        return {"text": text, "entities": spans}, f"{len(spans)} found"
    if "labels" in found:
        return found["scores"], ", ".join(found["labels"]) or "none of the labels"
    if "label" not in found:
        return {}, f"{found['score']:.3f}"
    line = f"{found['label']}, {100 * found['score']:.1f} %"
    if "needs_human" in found:
        line += "; a person should look at it" if found["needs_human"] else "; sure enough to be used as it is"
    return {found["label"]: found["score"]}, line


def build_page():
    """Return the page."""
    import gradio

    settings = read_settings()
    shown = {"token-classification": gradio.HighlightedText}.get(settings["task"], gradio.Label)
    return gradio.Interface(
        show,
        gradio.Textbox(label="text", lines=4),
        [shown(label="answer"), gradio.Textbox(label="in words")],
        title=settings["title"],
        description=settings["description"],
        examples=settings["examples"] or None,
        cache_examples=False,
        flagging_mode="never",
    )


if __name__ == "__main__":
    build_page().launch()
