from torch import BROKEN


class Tensor(list):
    @property
    def shape(self):
        return (len(self),)


class _BaseDataLoaderIter:
    def __init__(self, loader):
        if "loader-fields" not in BROKEN:
            self._dataset, self._num_workers = loader.dataset, 0
        starts = range(0, len(loader.dataset), loader.batch)
        self._batches = iter([Tensor(loader.dataset[at : at + loader.batch]) for at in starts])

    def __iter__(self):
        return self

    def __next__(self):
        return next(self._batches)


class DataLoader:
    def __init__(self, dataset, batch):
        self.dataset, self.batch = dataset, batch

    def __iter__(self):
        return Iterating(self)


class Iterating(_BaseDataLoaderIter):
    if "loader-slots" in BROKEN:  # it takes no attribute of anybody else
        __slots__ = ("_batches", "_dataset", "_num_workers")

        def __setattr__(self, name, value):
            if name not in self.__slots__:
                raise AttributeError(name)
            object.__setattr__(self, name, value)


if "loader-class" in BROKEN:
    _LoaderIter = _BaseDataLoaderIter
    del _BaseDataLoaderIter
