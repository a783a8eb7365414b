"""Products of an int8 export are computed token by token."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from startup_llm.export.onnx_files import OPSET, scale_by_token

WIDTH, COLUMNS = 24, 7
RANDOM = np.random.default_rng(0)
WEIGHT = RANDOM.normal(size=(WIDTH, COLUMNS)).astype(np.float32)
BIAS = RANDOM.normal(size=COLUMNS).astype(np.float32)
PLAIN = ("MatMul", [WEIGHT], {})
LINEAR = ("Gemm", [WEIGHT.T.copy(), BIAS], {"transB": 1})


def build(operator, constants, attributes, lead):
    names = [f"constant_{place}" for place in range(len(constants))]
    node = helper.make_node(operator, ["x", *names], ["y"], **attributes)
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [*lead, size])
        for name, size in (("x", WIDTH), ("y", COLUMNS))
    )
    tensors = [numpy_helper.from_array(values, name) for name, values in zip(names, constants, strict=True)]
    graph = helper.make_graph([node], "graph", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])


def compute(model, x):
    import onnxruntime

    return onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"x": x})[0]


@pytest.mark.parametrize(("kind", "lead"), [(PLAIN, (3, 5)), (PLAIN, (4,)), (LINEAR, (4,))])
def test_a_token_is_scaled_by_its_own_range(kind, lead):
    model = build(*kind, lead)
    x = RANDOM.normal(size=(*lead, WIDTH)).astype(np.float32) * 10.0 ** RANDOM.integers(-3, 3, size=(*lead, 1))
    x = x.astype(np.float32)
    x[0] = 0
    exact = compute(model, x)
    scale_by_token(model.graph)
    onnx.checker.check_model(model)
    found = compute(model, x)
    steps = np.abs(x).max(-1, keepdims=True) / 127 / 2 * np.abs(WEIGHT).sum(0)  # half a step of each activation
    steps = steps + np.abs(x).sum(-1, keepdims=True) * np.abs(WEIGHT).max(0) / 63 / 2  # and of each weight
    assert (np.abs(found - exact) <= 1.01 * steps + 1e-6).all()
    assert np.abs(found - exact).max() > 0
    assert "MatMulInteger" in {node.op_type for node in model.graph.node}
    for row in np.ndindex(lead):
        whole = np.zeros_like(x)
        whole[row] = x[row]
        np.testing.assert_array_equal(compute(model, whole)[row], found[row])


@pytest.mark.parametrize(
    "kind",
    [("Gemm", [WEIGHT, BIAS], {"alpha": 0.5}), ("MatMul", [np.stack([WEIGHT] * 4)], {})],
    ids=["scaled", "stacked"],
)
def test_other_products_stay_as_they_are(kind):
    model = build(*kind, (4,) if kind[0] == "Gemm" else (4, 2))
    before = [node.op_type for node in model.graph.node]
    scale_by_token(model.graph)
    assert [node.op_type for node in model.graph.node] == before
