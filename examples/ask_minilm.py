"""The fine-tuned MiniLM of examples/finetune_minilm.py, asked what it thinks of a review, with a receipt for what it says.

assay run examples/finetune_minilm.py --local --out tuned
assay infer examples/ask_minilm.py "a moving, quietly funny film" --receipt answer.json
assay receipt verify answer.json
"""

import numpy as np
from finetune_minilm import LENGTH, model, origin, tokenizer

import assay
from assay import finetune

finetune.load(model, "tuned")


def encode(text):
    made = tokenizer([text], padding="max_length", truncation=True, max_length=LENGTH, return_tensors="np")
    return {"tokens": made["input_ids"].astype(np.int32), "mask": made["attention_mask"].astype(np.uint8)}


def decode(output):
    bad, good = output["output.logits"][0]
    return f"{'good' if good > bad else 'bad'} ({1 / (1 + np.exp(-abs(good - bad))):.0%})"


def outputs(model, batch):
    return {"logits": model(input_ids=batch["tokens"], attention_mask=batch["mask"]).logits}


inference = assay.Inference(model=model, outputs=outputs, encode=encode, decode=decode, origin=origin)
