"""A small convolutional network that reads handwritten digits (scikit-learn's 8 x 8 images), with batch normalisation and dropout.

assay run examples/cnn.py --local
assay submit examples/cnn.py --budget 100 --watch
"""

import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import nn

import assay

images, labels = load_digits(return_X_y=True)
images = (images / 16).astype("float32").reshape(-1, 1, 8, 8)
SHOWN = 1437  # the rest, 360 images, stay here for `sample`


def block(inputs, outputs):
    return nn.Sequential(nn.Conv2d(inputs, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(), nn.MaxPool2d(2))


def loss(model, batch):
    return F.cross_entropy(model(batch["image"]), batch["label"], label_smoothing=0.05)


def sample(model):
    """How many of the images that were not trained on are read right, with the running statistics and without dropout."""
    model.eval()
    guesses = model(torch.from_numpy(images[SHOWN:])).argmax(1).numpy()
    model.train()
    return f"{(guesses == labels[SHOWN:]).mean():.1%} of {len(guesses)} unseen digits read right"


training = assay.Training(
    model=nn.Sequential(block(1, 16), block(16, 32), nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10)),
    loss=loss,
    data=assay.Dataset("digits", image=images[:SHOWN], label=labels[:SHOWN].astype("uint8")),
    optimizer=assay.AdamW(lr=5e-3, weight_decay=0.01),
    schedule=assay.Cosine(warmup=5),
    batch=64,
    micro_batches=2,
    steps=60,
    sample=sample,
)
