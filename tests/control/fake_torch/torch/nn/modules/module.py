from torch import BROKEN


class Module:
    def __init__(self):
        self.weights = [object(), object()]

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
