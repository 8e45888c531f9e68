"""Networks whose parameters are about to be read from a file need no random numbers first."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

# With these timm draws past `torch.nn.init`.
_FILLING = {Tensor.normal_, Tensor.uniform_, Tensor.erfinv_, Tensor.mul_, Tensor.add_, Tensor.clamp_, Tensor.fill_}


class Unfilled(TorchFunctionMode):
    """While it is active, new parameters keep what memory holds; buffers are filled as ever.

    Random numbers for VGG16 or a ViT-B take one to two seconds, and memory that is touched for nothing.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """What PyTorch asks before each of its functions runs."""
        kwargs = kwargs or {}
        if func in _FILLING or getattr(func, "__module__", None) == "torch.nn.init":
            tensor = kwargs["tensor"] if "tensor" in kwargs else args[0]
            if isinstance(tensor, torch.nn.Parameter):
                return tensor
        return func(*args, **kwargs)
