"""What PyTorch alone offers in training, as a value that can be given without PyTorch. Imports the errors alone."""

from __future__ import annotations

from dataclasses import dataclass

from skipscope.errors import InputError, quoted

__all__ = ["Ways"]


@dataclass(frozen=True, kw_only=True)
class Ways:
    """How PyTorch trains: for `train` of a network on the torch engine. The column `engine` of the readings says it.

    Whatever is chosen, networks are measured and evaluated in the precision of their spec, and not compiled.

    Attributes:
        device: one of `skipscope.engines.torch_devices.DEVICES`; where the network is, if not given.
        channels_last: whether images lie with their channels last in memory; if not given, they do. Sums are then
            taken in another order.
        autocast: whether the forward pass of a step is in bfloat16 where PyTorch holds that to be safe (automatic mixed
            precision): about 3 digits in place of 7, so other numbers from the first step on.
        compile: whether the steps are compiled (`torch.compile`), which sums in another order; it needs a C++ compiler,
            takes a minute at the start, and says nothing while it does.
    """

    device: str | None = None
    channels_last: bool | None = None
    autocast: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if self.device is not None and not isinstance(self.device, str):
            raise InputError(f"device must be a name, as 'cpu' or 'auto'; got {quoted(self.device)}.")
        for name in ("channels_last", "autocast", "compile"):
            value = getattr(self, name)
            if not isinstance(value, bool) and not (name == "channels_last" and value is None):
                raise InputError(f"{name} must be True or False; got {quoted(value)}.")
