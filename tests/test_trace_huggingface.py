"""Hugging Face's model classes trace as they are: BERT and Llama at small sizes, beside torch. Skipped where `transformers` is missing."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import assay
from tests.tracing import agree, one_thread, training

__all__ = ["one_thread"]

transformers = pytest.importorskip("transformers", reason="needs the package transformers: pip install transformers")
pytestmark = pytest.mark.slow

SIZES: dict[str, Any] = {"vocab_size": 40, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}


def tokens() -> assay.Dataset:
    return assay.Dataset("tokens", tokens=np.random.default_rng(0).integers(0, 40, (24, 13)).astype(np.uint8))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_llama(attention: str) -> None:
    config = transformers.LlamaConfig(**SIZES, num_key_value_heads=2, max_position_embeddings=32, attn_implementation=attention, use_cache=False)

    def loss(m: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        logits = m(input_ids=b["tokens"][:, :-1]).logits
        return F.cross_entropy(logits.flatten(0, 1), b["tokens"][:, 1:].flatten())

    agree(training(transformers.LlamaForCausalLM(config), loss, tokens(), optimizer=assay.SGD(lr=0.05)))


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_bert(attention: str) -> None:
    config = transformers.BertConfig(
        **SIZES, max_position_embeddings=32, attn_implementation=attention, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0
    )

    def loss(m: nn.Module, b: dict[str, torch.Tensor]) -> torch.Tensor:
        ids = b["tokens"]
        logits = m(input_ids=torch.where(ids < 8, 1, ids), attention_mask=(ids != 3).long()).logits
        return F.cross_entropy(logits.flatten(0, 1), torch.where(ids < 8, ids, -100).flatten())

    agree(training(transformers.BertForMaskedLM(config), loss, tokens(), optimizer=assay.SGD(lr=0.05)))
