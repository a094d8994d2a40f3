"""A multilayer perceptron that reads handwritten digits (scikit-learn's 8 x 8 images).

assay run examples/digits.py --local
assay submit examples/digits.py --budget 400 --watch
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import assay

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32")
SHOWN = 1437  # the rest, 360 images, stay here for `sample`


def loss(model, batch):
    return F.cross_entropy(model(batch["image"]), batch["label"])


def sample(model):
    """How many of the images that were not trained on are read right."""
    guesses = model(torch.from_numpy(images[SHOWN:])).argmax(1).numpy()
    return f"{(guesses == labels[SHOWN:]).mean():.1%} of {len(guesses)} unseen digits read right"


training = assay.Training(
    model=nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10)),
    loss=loss,
    data=assay.Dataset("digits", image=images[:SHOWN], label=labels[:SHOWN].astype("uint8")),
    optimizer=assay.AdamW(lr=3e-3, weight_decay=0.01, clip=1.0),
    schedule=assay.Cosine(warmup=10),
    batch=64,
    steps=200,
    sample=sample,
)
