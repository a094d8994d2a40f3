"""What the training of examples/digits.py is worth on 360 images that its providers have not seen: for a bounty.

assay submit examples/digits.py --budget 100 --steps 64 --bounty examples/evaluate_digits.py --pay 85%:5 --pay 90%:10 --window 1d --watch
assay bounty evaluate 1 --budget 60
assay bounty show 1
"""

from digits import SHOWN, images, labels
from digits import training as trained

import assay
from assay import finetune

held = assay.Dataset("unseen digits", row=images[SHOWN:], label=labels[SHOWN:].astype("uint8"))
training = assay.Evaluation(model=trained.model, measure=finetune.judged, data=held, batch=60)
