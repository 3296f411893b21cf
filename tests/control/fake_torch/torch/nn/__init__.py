from torch.nn import modules, parallel  # noqa: F401
from torch.nn.modules.module import Module  # noqa: F401
