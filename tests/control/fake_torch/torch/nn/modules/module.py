from torch import BROKEN


class Parameter:
    requires_grad = True

    def numel(self):
        return 10

    def element_size(self):
        return 4

    def detach(self):
        return self

    def clone(self):
        return Parameter()

    def copy_(self, other):
        pass


class Module:
    def __init__(self):
        self.weights = [Parameter(), Parameter()]

    def parameters(self):
        if "parameters" in BROKEN:
            raise RuntimeError("no parameters today")
        return iter(self.weights)

    def buffers(self):
        return iter(())

    def train(self, mode=True):
        self.training = mode
        return self

    def eval(self):
        return self.train(False)
