"""A table of pairs: 4,096 words, each of which says which one follows it. Its scores are one tensor of 2^13 chunks."""

import numpy as np
import torch.nn.functional as F
from torch import nn

import assay

WORDS, WIDTH, LENGTH = 1 << 12, 32, 65

text = np.random.default_rng(0).integers(0, WORDS, (64, LENGTH))


class Pairs(nn.Module):
    def __init__(self):
        super().__init__()
        self.word = nn.Embedding(WORDS, WIDTH)
        self.next = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens):
        return self.next(self.word(tokens))


def loss(model, batch):
    tokens = batch["tokens"]
    return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())


training = assay.Training(
    model=Pairs(), loss=loss, data=assay.Dataset("pairs", tokens=text), optimizer=assay.SGD(lr=0.1), batch=8, micro_batches=2, steps=4
)
