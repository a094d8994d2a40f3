"""A character GPT (arXiv:1706.03762, pre-norm, 0.4 million parameters) that learns to write like Shakespeare.

assay run examples/shakespeare.py --local
assay submit examples/shakespeare.py --budget 200 --watch
"""

import torch
import torch.nn.functional as F
from torch import nn

import assay

CONTEXT, WIDTH, HEADS, LAYERS = 64, 128, 4, 2

text = assay.Dataset.from_text("shakespeare", assay.demo_text(), context=CONTEXT)


class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv = nn.Linear(WIDTH, 3 * WIDTH, bias=False)
        self.out = nn.Linear(WIDTH, WIDTH, bias=False)
        self.up = nn.Linear(WIDTH, 4 * WIDTH, bias=False)
        self.down = nn.Linear(4 * WIDTH, WIDTH, bias=False)

    def forward(self, x):
        batch, time, _ = x.shape
        q, k, v = (h.view(batch, time, HEADS, -1).transpose(1, 2) for h in self.qkv(self.norm1(x)).split(WIDTH, dim=2))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).reshape(batch, time, WIDTH))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class GPT(nn.Module):
    def __init__(self, characters):
        super().__init__()
        self.token = nn.Embedding(characters, WIDTH)
        self.place = nn.Embedding(CONTEXT, WIDTH)
        self.blocks = nn.Sequential(*(Block() for _ in range(LAYERS)))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, characters, bias=False)
        for name, p in self.named_parameters():
            if p.dim() == 2:
                small = name.endswith(("out.weight", "down.weight", "head.weight"))
                nn.init.normal_(p, std=0.02 if small else 0.05)

    def forward(self, tokens):
        x = self.token(tokens) + self.place(torch.arange(tokens.shape[1]))
        return self.head(self.norm(self.blocks(x)))


def loss(model, batch):
    tokens = batch["tokens"]
    logits = model(tokens[:, :-1])
    return F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())


def sample(model, start="ROMEO:\n", length=200):
    """Continues `start`, a character at a time; the same text each time for the same weights."""
    tokens = torch.tensor([text.vocabulary.encode(start)])
    dice = torch.Generator().manual_seed(1)
    for _ in range(length):
        chances = (model(tokens[:, -CONTEXT:])[0, -1] / 0.8).softmax(-1)
        tokens = torch.cat([tokens, torch.multinomial(chances, 1, generator=dice)[None]], dim=1)
    return text.vocabulary.decode(tokens[0])


training = assay.Training(
    model=GPT(len(text.vocabulary)),
    loss=loss,
    data=text,
    optimizer=assay.AdamW(lr=4e-3, betas=(0.9, 0.95), weight_decay=0.1, decay="matrices", clip=1.0),
    schedule=assay.Cosine(warmup=8),
    batch=8,
    micro_batches=2,
    steps=96,
    sample=sample,
)
