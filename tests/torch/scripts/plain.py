"""Plain DistributedDataParallel, as PyTorch's tutorial of it. It knows nothing of the meter."""

from __future__ import annotations

import argparse

import torch
import torch.distributed as dist
import torch.nn.functional as F
from planted import BATCH, Images, compute, network, slow_network
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler

parser = argparse.ArgumentParser()
parser.add_argument("--workers", type=int, default=0)
parser.add_argument("--persistent", action="store_true")
parser.add_argument("--steps", type=int, default=100_000, help="of an epoch")
parser.add_argument("--epochs", type=int, default=1000)
parser.add_argument("--accumulate", type=int, default=1)
parser.add_argument("--evaluate", choices=["no_grad", "grad"], help="after each epoch")
parser.add_argument("--sum-loss", action="store_true", help="the loss over all ranks, in each step")
parser.add_argument("--compile", action="store_true")
parser.add_argument("--iterable", action="store_true")
parser.add_argument("--two-optimizers", action="store_true")
parser.add_argument("--fail-at", type=int, help="the step in which the last rank raises")
parser.add_argument("--save", help="where the weights go at the end, and after each epoch")
parser.add_argument("--fsdp", action="store_true")
args = parser.parse_args()


class Endless(torch.utils.data.IterableDataset):
    def __iter__(self):
        images = Images(args.steps * BATCH)
        return iter(images[index] for index in range(len(images)))


torch.set_num_threads(1)
dist.init_process_group("gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
torch.manual_seed(rank)
images = Images(args.steps * BATCH * ranks)
sampler = DistributedSampler(images, shuffle=False)
more = {"num_workers": args.workers, "persistent_workers": args.persistent}
loader = DataLoader(Endless(), BATCH) if args.iterable else DataLoader(images, BATCH, sampler=sampler, **more)
held_out = DataLoader(Images(6 * BATCH), BATCH)
if args.fsdp:
    from torch.distributed.fsdp import fully_shard

    model = ddp = fully_shard(network())
else:
    model = ddp = DDP(network())
    slow_network(ddp)
if args.compile:
    model = torch.compile(ddp, backend="aot_eager")
parameters = list(ddp.parameters())
halves = [parameters[:2], parameters[2:]] if args.two_optimizers else [parameters]
optimizers = [torch.optim.SGD(half, lr=0.01, momentum=0.9) for half in halves]
step = 0
for epoch in range(args.epochs):
    sampler.set_epoch(epoch)
    for number, (inputs, labels) in enumerate(loader):
        step += 1
        if step == args.fail_at and rank == ranks - 1:
            raise ValueError(f"a bad image in step {step}")
        compute()
        loss = F.cross_entropy(model(inputs), labels) / args.accumulate
        loss.backward()
        if (number + 1) % args.accumulate == 0:
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
        if args.sum_loss:
            total = loss.detach()
            dist.all_reduce(total)
    if args.evaluate:
        ddp.eval()
        with torch.set_grad_enabled(args.evaluate == "grad"):
            right = sum(int((ddp(inputs).argmax(1) == labels).sum()) for inputs, labels in held_out)
        ddp.train()
    if args.save and rank == 0:
        torch.save(ddp.state_dict(), args.save)
print(f"rank {rank} ends after step {step}", flush=True)
dist.destroy_process_group()
