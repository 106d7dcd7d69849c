"""Ten network families built from transformers configs, exported by torch in seven modes (once, kept in .cache)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import pathlib
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import onnx
import onnxscript
import torch
import transformers
from torch import nn

MODES = ("default", "noopt", "noopt_train", "ts13", "ts17", "ts13_keep", "ts17_keep")
KEEP_NAMES = ("noopt", "noopt_train", "ts13_keep", "ts17_keep")
DTYPES = {"float32": torch.float32, "float64": torch.float64}
VOCAB, WIDTH, HEADS, LAYERS = 61, 32, 4, 2


@dataclass(frozen=True)
class Family:
    """How one network is built and fed; `dynamic` maps an input to the names of its dynamic axes."""

    name: str
    build: Callable[[str], nn.Module]
    inputs: Callable[[int, int, torch.dtype], dict[str, torch.Tensor]]
    dynamic: dict[str, dict[int, str]]


class Tensors(nn.Module):
    """Calls a transformers model by the names in `names` and returns its first output as one tensor."""

    def __init__(self, net: nn.Module, names: tuple[str, ...], **fixed: object) -> None:
        super().__init__()
        self.net, self.names, self.fixed = net, names, fixed

    def forward(self, *args: torch.Tensor) -> torch.Tensor:
        out = self.net(**dict(zip(self.names, args, strict=True)), **self.fixed)
        return out[0]


def tokens(batch: int, seq: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(batch * 1000 + seq)
    ids = torch.randint(3, VOCAB, (batch, seq), generator=g)
    mask = torch.ones(batch, seq, dtype=torch.int64)
    mask[-1, seq - 2 :] = 0
    return {"input_ids": ids, "attention_mask": mask}


def images(batch: int, seq: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(batch)
    return {"pixel_values": torch.randn(batch, 3, 32, 32, generator=g, dtype=torch.float64).to(dtype)}


def speech(batch: int, seq: int, dtype: torch.dtype) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(batch)
    return {"input_features": torch.randn(batch, 16, 2 * SPEECH, generator=g, dtype=torch.float64).to(dtype)}


SPEECH = 12
TEXT_AXES = {"input_ids": {0: "batch", 1: "seq"}, "attention_mask": {0: "batch", 1: "seq"}}


def text(net: nn.Module, **fixed: object) -> nn.Module:
    return Tensors(net, ("input_ids", "attention_mask"), **fixed)


def bert(attn: str) -> nn.Module:
    c = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=48,
        max_position_embeddings=24, attn_implementation=attn, num_labels=3,
    )  # fmt: skip
    return text(transformers.BertForSequenceClassification(c))


def distilbert(attn: str) -> nn.Module:
    c = transformers.DistilBertConfig(
        vocab_size=VOCAB, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=48, max_position_embeddings=24,
        attn_implementation=attn, num_labels=3,
    )  # fmt: skip
    return text(transformers.DistilBertForSequenceClassification(c))


def gpt2(attn: str) -> nn.Module:
    c = transformers.GPT2Config(
        vocab_size=VOCAB, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, n_positions=24, attn_implementation=attn,
        use_cache=False, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    return text(transformers.GPT2LMHeadModel(c), use_cache=False)


def llama(attn: str) -> nn.Module:
    c = transformers.LlamaConfig(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, max_position_embeddings=24, attn_implementation=attn, use_cache=False,
    )  # fmt: skip
    return text(transformers.LlamaForCausalLM(c), use_cache=False)


def qwen3(attn: str) -> nn.Module:
    c = transformers.Qwen3Config(
        vocab_size=VOCAB, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
        num_key_value_heads=2, head_dim=8, max_position_embeddings=24, attn_implementation=attn, use_cache=False,
        tie_word_embeddings=True,
    )  # fmt: skip
    return text(transformers.Qwen3ForCausalLM(c), use_cache=False)


def vit(attn: str) -> nn.Module:
    c = transformers.ViTConfig(
        hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS, intermediate_size=48, image_size=32,
        patch_size=8, attn_implementation=attn, num_labels=3,
    )  # fmt: skip
    return Tensors(transformers.ViTForImageClassification(c), ("pixel_values",))


def resnet(attn: str) -> nn.Module:
    c = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[16, 32], depths=[2, 2], layer_type="basic", num_labels=3)
    return Tensors(transformers.ResNetForImageClassification(c), ("pixel_values",))


def convnext(attn: str) -> nn.Module:
    c = transformers.ConvNextConfig(hidden_sizes=[8, 32], depths=[2, 2], num_stages=2, num_labels=3)
    return Tensors(transformers.ConvNextForImageClassification(c), ("pixel_values",))


def t5(attn: str) -> nn.Module:
    c = transformers.T5Config(
        vocab_size=VOCAB, d_model=WIDTH, d_kv=8, d_ff=48, num_layers=LAYERS, num_heads=HEADS,
        relative_attention_num_buckets=8, relative_attention_max_distance=16, attn_implementation=attn,
    )  # fmt: skip
    return text(transformers.T5EncoderModel(c))


def whisper(attn: str) -> nn.Module:
    c = transformers.WhisperConfig(
        vocab_size=VOCAB, d_model=WIDTH, encoder_layers=LAYERS, encoder_attention_heads=HEADS, encoder_ffn_dim=48,
        decoder_layers=1, decoder_attention_heads=HEADS, decoder_ffn_dim=48, num_mel_bins=16,
        max_source_positions=SPEECH, max_target_positions=8, pad_token_id=0, bos_token_id=1, eos_token_id=2,
        decoder_start_token_id=1,
        attn_implementation=attn,
    )  # fmt: skip
    return Tensors(transformers.WhisperModel(c).get_encoder(), ("input_features",))


FAMILIES = {
    f.name: f
    for f in (
        Family("bert", bert, tokens, TEXT_AXES),
        Family("distilbert", distilbert, tokens, TEXT_AXES),
        Family("gpt2", gpt2, tokens, TEXT_AXES),
        Family("llama", llama, tokens, TEXT_AXES),
        Family("qwen3", qwen3, tokens, TEXT_AXES),
        Family("vit", vit, images, {"pixel_values": {0: "batch"}}),
        Family("resnet", resnet, images, {"pixel_values": {0: "batch"}}),
        Family("convnext", convnext, images, {"pixel_values": {0: "batch"}}),
        Family("t5", t5, tokens, TEXT_AXES),
        Family("whisper", whisper, speech, {"input_features": {0: "batch"}}),
    )
}


def randomise(net: nn.Module, seed: int) -> None:
    """Distinct values everywhere, so that no two initializers are equal and none is a constant."""
    g = torch.Generator().manual_seed(seed)

    def draw(t: torch.Tensor) -> torch.Tensor:
        return torch.randn(t.shape, generator=g, dtype=torch.float64).to(t.dtype)

    with torch.no_grad():
        for name, p in net.named_parameters():
            one_dim_scale = p.dim() == 1 and name.endswith("weight")
            fan = max(1, p[0].numel()) if p.dim() > 1 else 1
            p.copy_(1 + 0.2 * draw(p) if one_dim_scale else 0.1 * draw(p) if p.dim() == 1 else draw(p) * fan**-0.5)
        for name, b in net.named_buffers():
            if name.endswith("running_mean"):
                b.copy_(0.1 * draw(b))
            elif name.endswith("running_var"):
                b.copy_(1 + 0.2 * torch.rand(b.shape, generator=g, dtype=torch.float64).to(b.dtype))


def build(family: str, dtype: str = "float32", attn: str = "sdpa", distinct: bool = True) -> nn.Module:
    """The torch network in eval mode; the same seed gives the same weights in every dtype (drawn in float32)."""
    torch.manual_seed(0)
    with silence():
        net = FAMILIES[family].build(attn)
    if distinct:
        randomise(net, 7)
    return net.to(DTYPES[dtype]).eval()


def inputs(family: str, dtype: str = "float32", batch: int = 2, seq: int = 7) -> dict[str, torch.Tensor]:
    return FAMILIES[family].inputs(batch, seq, DTYPES[dtype])


@contextlib.contextmanager
def silence() -> Iterator[None]:
    """torch.onnx.export and transformers write much to file descriptors, logging and warnings."""
    level = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = [os.dup(fd) for fd in (1, 2)]
    with warnings.catch_warnings(), open(os.devnull, "w") as null:
        warnings.simplefilter("ignore")
        for fd in (1, 2):
            os.dup2(null.fileno(), fd)
        try:
            with contextlib.redirect_stdout(null), contextlib.redirect_stderr(null):
                yield
        finally:
            for fd, copy in zip((1, 2), kept, strict=True):
                os.dup2(copy, fd)
                os.close(copy)
            logging.disable(level)


class ExportFailed(Exception):
    """torch itself could not export; the text is torch's reason."""


@dataclass(frozen=True)
class Export:
    """One exported file and how it was made: the attention used, and the axes that stayed dynamic."""

    family: str
    mode: str
    dtype: str
    path: pathlib.Path
    attn: str
    dynamic: bool

    def proto(self) -> onnx.ModelProto:
        return onnx.load(self.path)

    def net(self, distinct: bool = True) -> nn.Module:
        return build(self.family, self.dtype, self.attn, distinct)

    @property
    def keeps_names(self) -> bool:
        return self.mode in KEEP_NAMES


def attempts(mode: str) -> list[tuple[str, bool]]:
    """(attention, dynamic axes) in the order of preference."""
    if mode.startswith("ts"):
        return [("sdpa", True), ("eager", True), ("eager", False)]
    return [("sdpa", True), ("sdpa", False), ("eager", True), ("eager", False)]


def write(family: str, mode: str, dtype: str, attn: str, dynamic: bool, path: pathlib.Path, distinct: bool = True) -> None:
    f = FAMILIES[family]
    net = build(family, dtype, attn, distinct)
    example = inputs(family, dtype)
    args, names = tuple(example.values()), list(example)
    if mode.startswith("ts"):
        keep = mode.endswith("keep")
        training = torch.onnx.TrainingMode.PRESERVE if keep else torch.onnx.TrainingMode.EVAL
        torch.onnx.export(
            net, args, str(path), dynamo=False, opset_version=int(mode[2:4]), input_names=names,
            output_names=["output"], dynamic_axes=f.dynamic if dynamic else None, do_constant_folding=not keep,
            training=training,
        )  # fmt: skip
        return
    net.train(mode == "noopt_train")
    dims = {n: {a: torch.export.Dim.DYNAMIC for a in f.dynamic.get(n, {})} for n in names}
    program = torch.onnx.export(
        net, args, dynamo=True, optimize=mode == "default", input_names=names, output_names=["output"], verbose=False,
        dynamic_shapes=(tuple(dims[n] for n in names),) if dynamic else None,
    )  # fmt: skip
    assert program is not None
    program.save(str(path))


def cache() -> pathlib.Path:
    return pathlib.Path(os.environ.get("ORTMOD_ZOO_CACHE", pathlib.Path(__file__).parent / ".cache"))


def key() -> str:
    source = pathlib.Path(__file__).read_bytes()
    versions = (torch.__version__, onnx.__version__, onnxscript.__version__, transformers.__version__)
    return hashlib.sha256(source + repr(versions).encode()).hexdigest()[:12]


def export(family: str, mode: str, dtype: str = "float32", distinct: bool = True) -> Export:
    """The export of one network, made once per version of torch, onnxscript, transformers and this file."""
    folder = cache() / key()
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{family}_{mode}_{dtype}" + ("" if distinct else "_equal")
    note, path = folder / f"{stem}.json", folder / f"{stem}.onnx"
    with open(folder / f"{stem}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists():
            make(family, mode, dtype, distinct, note, path)
    record = json.loads(note.read_text())
    if "attn" not in record:
        raise ExportFailed("; ".join(f"{k}: {v}" for k, v in record["errors"].items()))
    return Export(family, mode, dtype, path, str(record["attn"]), bool(record["dynamic"]))


def make(family: str, mode: str, dtype: str, distinct: bool, note: pathlib.Path, path: pathlib.Path) -> None:
    record: dict[str, object] = {}
    errors: dict[str, str] = {}
    for attn, dynamic in attempts(mode):
        try:
            with silence():
                write(family, mode, dtype, attn, dynamic, path, distinct)
        except Exception as e:  # torch raises many kinds; the reason is recorded
            errors[f"{attn}{', dynamic' if dynamic else ''}"] = reason(e)
            continue
        record.update(attn=attn, dynamic=dynamic)
        break
    note.write_text(json.dumps({**record, "errors": errors}, indent=1))


def records() -> dict[str, dict[str, object]]:
    """What has been exported so far: per file the attention, the dynamic axes and torch's refusals before."""
    return {p.stem: json.loads(p.read_text()) for p in sorted((cache() / key()).glob("*.json"))}


def reason(e: BaseException) -> str:
    while e.__cause__ is not None:
        e = e.__cause__
    lines = [line.strip() for line in str(e).splitlines() if line.strip()]
    return f"{type(e).__name__}: {lines[0] if lines else ''}"[:200]
