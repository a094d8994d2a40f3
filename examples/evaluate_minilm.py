"""What the fine-tune of examples/finetune_minilm.py is worth, as a claim that others can check: every held-out review is read once, exactly.

assay run examples/finetune_minilm.py --local --out tuned
assay submit examples/evaluate_minilm.py --budget 200 --watch
assay job result 1 --out result.safetensors
"""

from finetune_minilm import held, model, origin

import assay
from assay import finetune

finetune.load(model, "tuned")
training = assay.Evaluation(model=model, measure=finetune.judged, data=held, batch=50, origin=origin)
