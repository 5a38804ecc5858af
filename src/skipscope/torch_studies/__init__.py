"""Studies of a model of one's own: the verbs of `skipscope.studies`, given a `torch.nn.Module` or what makes one.

    skipscope.studies.twin(model, batches, loss=fn)              with and without its shortcuts
    skipscope.studies.lesion(model, batches, loss=fn)            each of its branches taken out
    skipscope.studies.sweep(make_model, depths=[...], batch=x)   depths and seeds of a factory make_model(depth, seed)

Reach them there: `skipscope.studies` hands on to here what is given a model, and so stays free of PyTorch itself. What
the readings say is in `skipscope.twins`, `skipscope.absences` and `skipscope.trends`.
"""

from __future__ import annotations

from skipscope.torch_studies.lesion import MODEL_LESION_QUANTITIES, lesion
from skipscope.torch_studies.sweep import MODEL_SWEEP_QUANTITIES, sweep
from skipscope.torch_studies.twin import TWIN_QUANTITIES, twin

__all__ = [
    "MODEL_LESION_QUANTITIES",
    "MODEL_SWEEP_QUANTITIES",
    "TWIN_QUANTITIES",
    "lesion",
    "sweep",
    "twin",
]
