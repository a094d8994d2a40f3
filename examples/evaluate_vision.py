"""What the fine-tune of examples/finetune_vision.py is worth, as a claim that others can check: every held-out image is looked at once, exactly.

assay run examples/finetune_vision.py --local --out tuned-vision
assay submit examples/evaluate_vision.py --budget 200 --watch
assay job result 1 --out result.safetensors
"""

from finetune_vision import held, model, origin

import assay
from assay import finetune

finetune.load(model, "tuned-vision")
training = assay.Evaluation(model=model, measure=finetune.judged, data=held, batch=50, origin=origin)
