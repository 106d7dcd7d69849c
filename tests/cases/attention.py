"""Rows: scaled dot-product attention and rotary embedding."""

import math

import numpy as np
import torch
from oracle import Case, R

INF = float("inf")
DTYPES = ("float64", "float32")


def heads(x, n):
    return x.view(*x.shape[:2], n, -1).transpose(1, 2)


def attention(
    q_heads=0, kv_heads=0, causal=False, scale=None, softcap=0.0, past=False, nonpad=False, left=-1, right=-1, all_outputs=False
):
    def run(q, k, v, *rest):
        rest = list(rest)
        flat = q.dim() == 3
        if flat:
            q, k, v = heads(q, q_heads), heads(k, kv_heads), heads(v, kv_heads)
        lengths = rest.pop() if nonpad else None
        before = 0
        if past:
            old_v, old_k = rest.pop(), rest.pop()
            before = old_k.shape[2]
            v, k = torch.cat([old_v, v], 2), torch.cat([old_k, k], 2)
        mask = rest.pop() if rest else None
        times = q.shape[1] // k.shape[1]
        keys, values = k.repeat_interleave(times, 1), v.repeat_interleave(times, 1)
        raw = q @ keys.transpose(-1, -2) * (scale or 1 / math.sqrt(q.shape[-1]))
        s = torch.tanh(raw / softcap) * softcap if softcap else raw
        i, j = torch.arange(q.shape[2])[:, None] + before, torch.arange(k.shape[2])[None, :]
        if lengths is not None:
            i = i + (lengths.view(-1, 1, 1, 1) - q.shape[2])
        allowed = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool)
        if causal:
            allowed = allowed & (j <= i)
        if left >= 0:
            allowed = allowed & (i - j <= left)
        if right >= 0:
            allowed = allowed & (j - i <= right)
        if lengths is not None:
            allowed = allowed & (j < lengths.view(-1, 1, 1, 1))
        if mask is not None:
            short = k.shape[2] - mask.shape[-1]
            fill = False if mask.dtype == torch.bool else -INF
            mask = torch.nn.functional.pad(mask, (0, short), value=fill)
            if mask.dtype == torch.bool:
                allowed = allowed & mask
            else:
                s = s + mask
        s = s.masked_fill(~allowed, -INF)
        empty = (s == -INF).all(-1, keepdim=True)
        p = torch.softmax(s.masked_fill(empty, 0.0), -1).masked_fill(empty, 0.0)
        y = p @ values
        if flat:
            y = y.transpose(1, 2).flatten(2)
        return (y, k, v, raw) if all_outputs else y

    return run


def rotary(interleaved=False, part=0, num_heads=0):
    def run(x, cos, sin, ids=None):
        v = heads(x, num_heads) if x.dim() == 3 else x
        c, s = (cos, sin) if ids is None else (cos[ids], sin[ids])
        c, s = c.unsqueeze(1), s.unsqueeze(1)
        n = part or v.shape[-1]
        t, rest = v[..., :n], v[..., n:]
        a, b = (t[..., 0::2], t[..., 1::2]) if interleaved else t.chunk(2, -1)
        real, imag = c * a - s * b, s * a + c * b
        t = torch.stack([real, imag], -1).flatten(-2) if interleaved else torch.cat([real, imag], -1)
        y = torch.cat([t, rest], -1)
        return y.transpose(1, 2).flatten(2) if x.dim() == 3 else y

    return run


def a(inputs, fn, outputs=1, **attrs):
    options = {k: attrs.pop(k) for k in ("opset", "wrt", "dynamic", "unknown") if k in attrs}
    options.setdefault("opset", 24)
    options.setdefault("unknown", "")

    def expect(*arrays):
        y = fn(*(torch.from_numpy(v) for v in arrays))
        return tuple(v.numpy() for v in y) if isinstance(y, tuple) else y.numpy()

    return Case("Attention", inputs, attrs, outputs=outputs, torch=fn, expect=expect, dtypes=DTYPES, **options)


Q, K, V = R(2, 4, 3, 8), R(2, 4, 5, 8), R(2, 4, 5, 6)
MASK = np.random.default_rng(0).random((3, 5)) < 0.6
MASK[1] = False

CASES = [
    a([Q, K, V], attention(), opset=23),
    a([Q, K, V], attention(scale=0.25), scale=0.25),
    a([Q, R(2, 4, 3, 8), R(2, 4, 3, 8)], attention(causal=True), is_causal=1),
    a([Q, K, V, R(3, 5)], attention()),
    a([Q, K, V, MASK], attention(), wrt=[0, 1, 2]),
    a([Q, K, V, MASK], attention(causal=True), wrt=[0, 1, 2], is_causal=1),
    a([Q, K, V, R(2, 1, 3, 4)], attention(), dynamic=False),
    a([Q, K, V], attention(softcap=2.0), softcap=2.0),
    a([Q, R(2, 2, 5, 8), R(2, 2, 5, 6)], attention(), unknown="", dynamic=False),
    a([R(2, 3, 8), R(2, 5, 4), R(2, 5, 6)], attention(4, 2), q_num_heads=4, kv_num_heads=2),
    a([Q, R(2, 4, 3, 8), R(2, 4, 3, 6), None, R(2, 4, 2, 8), R(2, 4, 2, 6)], attention(past=True, causal=True), is_causal=1),
    a([Q, K, V, None, None, None, np.array([5, 2])], attention(nonpad=True, causal=True), is_causal=1, wrt=[0, 1, 2]),
    a([Q, R(2, 4, 3, 8), R(2, 4, 3, 6), None, R(2, 4, 2, 8), R(2, 4, 2, 6)], attention(past=True, all_outputs=True), outputs=4),
    a([Q, K, V], attention(left=1, right=1), opset=25, left_window_size=1, right_window_size=1),
    Case("Attention", [R(2, 3, 8), R(2, 5, 8), R(2, 5, 6)], opset=23, dynamic=False, error="q_num_heads is required"),
    Case("RotaryEmbedding", [R(2, 4, 3, 8), R(2, 3, 4), R(2, 3, 4)], opset=23, torch=rotary(), dtypes=DTYPES),
    Case(
        "RotaryEmbedding",
        [R(2, 4, 3, 8), R(7, 4), R(7, 4), np.array([[0, 3, 6], [1, 1, 2]])],
        {"interleaved": 1},
        opset=23,
        torch=rotary(True),
        dtypes=DTYPES,
    ),
    Case(
        "RotaryEmbedding",
        [R(2, 3, 32), R(2, 3, 2), R(2, 3, 2)],
        {"num_heads": 4, "rotary_embedding_dim": 4},
        opset=23,
        torch=rotary(part=4, num_heads=4),
        dtypes=DTYPES,
    ),
    Case(
        "RotaryEmbedding",
        [R(2, 3, 30), R(2, 3, 4), R(2, 3, 4)],
        {"num_heads": 4},
        opset=23,
        dynamic=False,
        error="num_heads must divide",
    ),
]
