"""The heavy half: the scope on a model of one's own, a `torch.nn.Module`.

`skipscope.probe(model, batch, loss=fn)` needs nothing from here. This package and the torch engine are all that imports
PyTorch, and nothing imports them before there is a model: a machine without PyTorch has the rest of skipscope.
"""

from __future__ import annotations

from skipscope.torch.checking import check_undisturbed
from skipscope.torch.gains import Turned, gains
from skipscope.torch.junctions import Junction, Junctions, junctions
from skipscope.torch.scope import Listening, listening
from skipscope.torch.taken import Taken

__all__ = [
    "Junction",
    "Junctions",
    "Listening",
    "Taken",
    "Turned",
    "check_undisturbed",
    "gains",
    "junctions",
    "listening",
]
