"""A small vision transformer that knows the handwritten digits 0 to 4 learns 5 to 9 by LoRA in all its layers and
a head that is trained anew.

The images are those of scikit-learn, 8 by 8 pixels, written by 43 people. The base is trained in plain PyTorch when this file first runs, some ten
seconds, and kept in the folder digits-base.

pip install transformers scikit-learn
assay run examples/finetune_vision.py --local --out tuned-vision
assay submit examples/finetune_vision.py --budget 400 --watch --out tuned-vision
"""

from pathlib import Path

import numpy as np
import torch
from sklearn.datasets import load_digits
from transformers import ViTConfig, ViTForImageClassification

import assay
from assay import finetune

FOLDER, HELD = Path("digits-base"), 200
digits = load_digits()
pixels, labels = (digits.images[:, None] / 8 - 1).astype(np.float32), digits.target
mixed = np.random.default_rng(0).permutation(len(labels))
pixels, labels = pixels[mixed], labels[mixed]


def make_base():
    torch.set_num_threads(1)  # of so small a model several would wait for each other, and the sums' bits depend on how many there are
    config = ViTConfig(
        image_size=8, patch_size=2, num_channels=1, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=128, num_labels=5
    )
    model = ViTForImageClassification(config)
    known = labels < 5
    x, y = torch.from_numpy(pixels[known]), torch.from_numpy(labels[known]).long()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    for step in range(200):
        rows = torch.arange(step * 64, step * 64 + 64) % len(y)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(pixel_values=x[rows]).logits, y[rows]).backward()
        optimizer.step()
    model.save_pretrained(FOLDER)


if not FOLDER.is_dir():
    make_base()
base = finetune.Base(FOLDER, "examples/digits-0-to-4", licence="cc-by-4.0")
model = base.load(ViTForImageClassification)
origin = finetune.tune(model, finetune.Lora(rank=8, alpha=16, targets="all-linear", save=("classifier",)), base)

new = labels >= 5
held = finetune.images("held-out digits", pixels[new][:HELD], labels[new][:HELD] - 5)
training = assay.Training(
    model=model,
    loss=finetune.classification,
    data=finetune.images("digits 5 to 9", pixels[new][HELD:], labels[new][HELD:] - 5),
    origin=origin,
    optimizer=assay.AdamW(lr=1e-2, clip=1.0),
    schedule=assay.Cosine(warmup=5),
    batch=32,
    steps=96,
    sample=lambda model: finetune.measured(model, held),
)
