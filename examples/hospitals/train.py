"""A small network that reads thyroid records. `SITE` in the environment says whose records it is given: a site's, `all`, or (by default) an
example of one batch that stands for the sealed records of others.

SITE=SVHC assay run examples/hospitals/train.py --local
SITE=SVHC assay federated join examples/hospitals/train.py --local-steps 10
assay submit examples/hospitals/train.py --dataset 1 --budget 200 --watch
"""

import os

import numpy as np
import torch.nn.functional as F
from patients import COLUMNS, SITES, joined, load
from torch import nn

import assay

BATCH = 32
site = os.environ.get("SITE", "")
if site:
    sites = load()
    records = joined([sites[name].shown for name in (SITES if site == "all" else site.split("+"))])
    features, label = records.features, records.label
else:
    features, label = np.zeros((BATCH, len(COLUMNS)), np.float32), np.zeros(BATCH, np.int64)


def loss(model, batch):
    return F.cross_entropy(model(batch["features"]), batch["label"])


training = assay.Training(
    model=nn.Sequential(nn.Linear(len(COLUMNS), 32), nn.ReLU(), nn.Linear(32, 2)),
    loss=loss,
    data=assay.Dataset("thyroid", features=features, label=label),
    optimizer=assay.AdamW(lr=1e-2, weight_decay=0.01, clip=1.0),
    schedule=assay.Cosine(warmup=5),
    batch=BATCH,
    steps=int(os.environ.get("STEPS", "120")),
)
