"""Small models that the training tests share."""

import numpy as np
import onnx
import onnx.parser

HEAD = '<ir_version: 8, opset_import: ["" : 15]>\n'
NAMES = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}


def with_weights(text: str, weights: dict[str, np.ndarray]) -> onnx.ModelProto:
    model = onnx.parser.parse_model(HEAD + text)
    model.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in weights.items())
    return model


def linear(features: int, outputs: int = 1, dtype=np.float32) -> onnx.ModelProto:
    """X coef + intercept, from zero; the weights are listed in no order."""
    t = NAMES[np.dtype(dtype)]
    text = f"""linear ({t}[N, {features}] X) => ({t}[N, {outputs}] variable) {{
        product = MatMul(X, coef)
        variable = Add(product, intercept)
    }}"""
    return with_weights(text, {"intercept": np.zeros(outputs, dtype), "coef": np.zeros((features, outputs), dtype)})


def mlp(layers: list[int], dtype=np.float32, activation: str = "Tanh") -> onnx.ModelProto:
    """A network with weights w0, b0, w1, b1, ..."""
    t = NAMES[np.dtype(dtype)]
    random = np.random.default_rng(0)
    body, weights, value = "", {}, "X"
    for i, (n, m) in enumerate(zip(layers[:-1], layers[1:], strict=True)):
        last = i == len(layers) - 2
        body += f"p{i} = MatMul({value}, w{i})\n{'y' if last else f's{i}'} = Add(p{i}, b{i})\n"
        if not last:
            body += f"a{i} = {activation}(s{i})\n"
        value = f"a{i}"
        weights[f"w{i}"] = (random.normal(size=(n, m)) / np.sqrt(n)).astype(dtype)
        weights[f"b{i}"] = (0.1 * random.normal(size=m)).astype(dtype)
    return with_weights(f"net ({t}[N, {layers[0]}] X) => ({t}[N, {layers[-1]}] y) {{\n{body}}}", weights)
