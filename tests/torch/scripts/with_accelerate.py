"""A loop of accelerate, as its quick tour. It knows nothing of the meter."""

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from planted import BATCH, Images, compute, network
from torch.utils.data import DataLoader

torch.set_num_threads(1)
accelerator = Accelerator(cpu=True)
model = network()
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
schedule = torch.optim.lr_scheduler.StepLR(optimizer, 100)
loader = DataLoader(Images(100_000), BATCH, shuffle=True)
model, optimizer, loader, schedule = accelerator.prepare(model, optimizer, loader, schedule)
for _ in range(1000):
    for inputs, labels in loader:
        compute()
        loss = F.cross_entropy(model(inputs), labels)
        accelerator.backward(loss)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
