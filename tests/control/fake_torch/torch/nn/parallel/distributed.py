from torch import BROKEN
from torch.nn.modules.module import Module


class DistributedDataParallel(Module):
    require_backward_grad_sync = True

    def __init__(self, module):
        self.module, self.weights = module, module.weights


if "ddp-init" in BROKEN:  # a class of C: its __init__ cannot be replaced

    class Closed(type):
        def __setattr__(cls, name, value):
            raise TypeError(f"cannot set {name!r} of {cls.__name__!r}")

    class DistributedDataParallel(Module, metaclass=Closed):
        require_backward_grad_sync = True

        def __init__(self, module):
            self.module, self.weights = module, module.weights
