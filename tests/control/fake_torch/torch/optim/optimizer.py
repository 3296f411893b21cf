from torch import BROKEN

_hooks = []


def register_optimizer_step_post_hook(hook):
    if "hook-raises" in BROKEN:
        raise TypeError("hooks take no function")
    _hooks.append(hook)


class Optimizer:
    if "optimizer-slots" in BROKEN:  # no weak reference to it can be had
        __slots__ = ("param_groups", "state", "steps")

    def __init__(self, parameters):
        self.param_groups, self.state, self.steps = [{"params": list(parameters)}], {}, 0

    def step(self):
        self.steps += 1
        for hook in _hooks:
            hook() if "hook-signature" in BROKEN else hook(self, (), {})


class SGD(Optimizer):
    __slots__ = ()


if "hook" in BROKEN:
    del register_optimizer_step_post_hook
