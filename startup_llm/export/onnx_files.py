"""A model in the form of ONNX, its weights in float32 or int8."""

from __future__ import annotations

import importlib.util
import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from startup_llm.errors import UserError
from startup_llm.plain_data import read_json_object
from startup_llm.runs.onnx_model import ONNX_FILE, ONNX_SETTINGS, import_onnxruntime

if TYPE_CHECKING:
    import numpy as np
    import onnx

    from startup_llm.tasks.base import Task

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
OPSET = 18
"""Version of ONNX's operators: that of the exporter itself, which converts for no other."""
WEIGHT_STEPS, INT8_STEPS = 63, 127
"""Largest weight, in 7 bits, and largest activation, in 8."""
_EXAMPLES = ("one text", "another one, which is longer")


def require_packages() -> None:
    """Refuse to export without the packages of the extra.

    Raises:
        UserError: If one is missing.
    """
    packages = ("onnx", "onnxruntime", "onnxscript")
    if missing := [name for name in packages if importlib.util.find_spec(name) is None]:
        raise UserError(f"exporting to ONNX needs {', '.join(missing)}; pip install 'startup-llm[export]'")


def write_onnx(task: Task, model: Any, processor: Any, folder: Path, weights: str) -> None:
    """Write a model of texts with its tokenizer, its labels and its decision.

    Args:
        task: Its task.
        model: A model of transformers, in float32.
        processor: What encodes rows: its tokenizer, one of the library tokenizers, or what holds that.
        folder: An empty folder; it gets `model.onnx`, `onnx.json`, `config.json` and the tokenizer's files.
        weights: float32 or int8: what the file will hold at the end.

    Raises:
        UserError: If the model's operators or its tokenizer cannot be exported.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    if not getattr(tokenizer, "is_fast", False):
        raise UserError(f"{type(tokenizer).__name__} has no tokenizer.json, which an export answers by")
    _write_graph(task, model.eval(), processor, tokenizer, folder / ONNX_FILE)
    tokenizer.save_pretrained(folder)
    model.config.save_pretrained(folder)
    settings = {
        "max_length_tokens": tokenizer.model_max_length,
        "pad_token_id": tokenizer.pad_token_id,
        "pad_token_type_id": tokenizer.pad_token_type_id,
        "weights": weights,
    }
    (folder / ONNX_SETTINGS).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


def copy_decision(source: Path, target: Path) -> None:
    """Keep how answers are read, and the labels, as the run's own config has them, but for inputs out of scope."""
    config = read_json_object(source / "config.json")
    config.pop("out_of_scope", None)
    (target / "config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_graph(task: Task, model: Any, processor: Any, tokenizer: Any, file: Path) -> None:
    import torch

    from startup_llm.models.pooling import restore_mean_pooling

    class Outputs(torch.nn.Module):
        """The model from its inputs by place to what answers are made of."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, input_ids: Any, attention_mask: Any, token_type_ids: Any = None) -> Any:
            """Return the outputs, a row for each text."""
            inputs = {"input_ids": input_ids, "attention_mask": attention_mask}
            further = {} if token_type_ids is None else {"token_type_ids": token_type_ids}
            return task.saved_model.compute_exported(self.model, {**inputs, **further}, processor)

    restore_mean_pooling(model)
    names = [name for name in INPUTS if name in tokenizer.model_input_names]
    batch = tokenizer(list(_EXAMPLES), padding=True, return_tensors="pt")
    both = {0: torch.export.Dim.DYNAMIC, 1: torch.export.Dim.DYNAMIC}
    with _quiet_exporter():
        try:
            program = torch.onnx.export(
                Outputs().eval(),
                tuple(batch[name] for name in names),
                dynamo=True,
                dynamic_shapes={name: both if name in names else None for name in INPUTS[: len(names)]},
                input_names=names,
                output_names=["outputs"],
                opset_version=OPSET,
                verbose=False,
            )
        except torch.onnx.OnnxExporterError as error:
            raise UserError(
                f"{type(model).__name__} has an operator that torch.onnx cannot export ({_first_line(error)}); "
                "choose another checkpoint"
            ) from None
        program.save(str(file), external_data=False)
    _drop_notes(file)


def _drop_notes(file: Path) -> None:
    """Take out what the exporter notes of this machine: paths and lines of the code behind each operator."""
    import onnx

    content = onnx.load(str(file))
    graph = content.graph
    for part in (content, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        del part.metadata_props[:]
        part.ClearField("doc_string")
    onnx.save(content, str(file))


def quantize(folder: Path, method: str, batches: Sequence[dict[str, np.ndarray]]) -> None:
    """Replace the weights of `model.onnx` by int8, one scale per output channel.

    Weights have seven bits, so that a sum of two products fits into the 16 bits of the processors without VNNI.

    Args:
        folder: The export's.
        method: dynamic: each token's activations are scaled by their own range; static: by the range on `batches`.
        batches: Inputs of training rows, by name; read where the method is static.
    """
    import_onnxruntime()
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    file, prepared, written = (folder / name for name in (ONNX_FILE, "prepared.onnx", "quantized.onnx"))
    with _quiet_exporter():
        quant_pre_process(str(file), str(prepared), skip_symbolic_shape=True)
        if method == "dynamic":
            content = onnx.load(str(prepared))
            scale_by_token(content.graph)
            onnx.save(content, str(prepared))
            embeddings = {"op_types_to_quantize": ["Gather"], "per_channel": True}
            quantize_dynamic(str(prepared), str(written), weight_type=QuantType.QInt8, **embeddings)
        else:
            quantize_static(
                str(prepared),
                str(written),
                _Batches(batches),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=["MatMul", "Gemm", "Gather"],
                per_channel=True,
                reduce_range=True,
            )
    prepared.unlink()
    written.replace(file)


def scale_by_token(graph: onnx.GraphProto) -> None:
    """Compute each product with a weight in int8, in place; with x a token's activations and w a column's scale,

        s = max |x| / 127,   q = round(x / s),   y = s w (q W8)

    onnxruntime's own dynamic quantization takes one scale for the whole batch, so that an answer would depend on the
    texts beside it.
    """
    import numpy as np
    from onnx import TensorProto, helper, numpy_helper

    weights = {tensor.name: tensor for tensor in graph.initializer if len(tensor.dims) == 2}
    constants: dict[str, np.ndarray] = {
        "token_axis": np.array([-1]),
        "token_least": np.array(1e-12, np.float32),
        "token_steps": np.array(INT8_STEPS, np.float32),
        "token_one": np.array(1, np.float32),
        "token_zero": np.array(128, np.uint8),
    }
    nodes: list[onnx.NodeProto] = []
    scaled: set[str] = set()

    def add(operator: str, inputs: list[str], output: str, **attributes: Any) -> None:
        nodes.append(helper.make_node(operator, inputs, [output], **attributes))

    for node in graph.node:
        attributes = {part.name: helper.get_attribute_value(part) for part in node.attribute}
        is_plain = not attributes.get("transA") and attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
        if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights or not is_plain:
            nodes.append(node)
            continue
        weight = numpy_helper.to_array(weights[node.input[1]])
        weight = weight.T if attributes.get("transB") else weight
        scale = np.maximum(np.abs(weight).max(0), 1e-12) / WEIGHT_STEPS
        x, y = node.input[0], node.output[0]
        constants[f"{y}_weight"] = np.rint(weight / scale).astype(np.int8)
        constants[f"{y}_scale"] = scale.astype(np.float32)
        if x not in scaled:
            scaled.add(x)
            add("Abs", [x], f"{x}_absolute")
            add("ReduceMax", [f"{x}_absolute", "token_axis"], f"{x}_largest", keepdims=1)
            add("Max", [f"{x}_largest", "token_least"], f"{x}_range")
            add("Div", [f"{x}_range", "token_steps"], f"{x}_scale")
            add("Div", [x, f"{x}_scale"], f"{x}_divided")
            add("QuantizeLinear", [f"{x}_divided", "token_one", "token_zero"], f"{x}_int8")
        bias = list(node.input[2:])
        add("MatMulInteger", [f"{x}_int8", f"{y}_weight", "token_zero"], f"{y}_int32")
        add("Cast", [f"{y}_int32"], f"{y}_float", to=TensorProto.FLOAT)
        add("Mul", [f"{y}_float", f"{y}_scale"], f"{y}_columns")
        add("Mul", [f"{y}_columns", f"{x}_scale"], f"{y}_product" if bias else y)
        if bias:
            add("Add", [f"{y}_product", *bias], y)
    read = {name for node in nodes for name in node.input}
    kept = [tensor for tensor in graph.initializer if tensor.name in read]
    kept += [numpy_helper.from_array(values, name) for name, values in constants.items()]
    del graph.node[:], graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(kept)


class _Batches:
    """What quantize_static reads, one batch after another."""

    def __init__(self, batches: Sequence[dict[str, np.ndarray]]) -> None:
        self._batches = iter(batches)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """Return the next batch; None behind the last one."""
        return next(self._batches, None)


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep what the exporter and the quantizer log about their own work from the console."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir", "")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
