"""Image classification on made-up data.

Modelled on torchvision's references/classification/train.py (github.com/pytorch/vision); written anew, no line copied.
"""

import argparse
import datetime
import os
import time
from collections import defaultdict, deque

import torch
import torch.distributed as dist
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler


class SmoothedValue:
    """The last values of a series, and its sum over all ranks."""

    def __init__(self, window=20):
        self.deque = deque(maxlen=window)
        self.total, self.count = 0.0, 0

    def update(self, value, n=1):
        self.deque.append(value)
        self.total += value * n
        self.count += n

    def synchronize_between_processes(self):
        if not (dist.is_available() and dist.is_initialized()):
            return
        both = torch.tensor([self.count, self.total], dtype=torch.float64)
        dist.barrier()
        dist.all_reduce(both)
        self.count, self.total = int(both[0]), float(both[1])

    @property
    def median(self):
        return torch.tensor(list(self.deque)).median().item()

    @property
    def global_avg(self):
        return self.total / max(self.count, 1)


class MetricLogger:
    def __init__(self):
        self.meters = defaultdict(SmoothedValue)

    def update(self, n=1, **values):
        for name, value in values.items():
            self.meters[name].update(value.item() if isinstance(value, torch.Tensor) else value, n)

    def log_every(self, iterable, frequency, header):
        start = end = time.time()
        for index, item in enumerate(iterable):
            self.meters["data"].update(time.time() - end)
            yield item
            self.meters["time"].update(time.time() - end)
            if index % frequency == 0:
                shown = "  ".join(f"{name}: {meter.median:.4f}" for name, meter in self.meters.items())
                print(f"{header} [{index}/{len(iterable)}]  {shown}", flush=True)
            end = time.time()
        print(f"{header} Total time: {datetime.timedelta(seconds=int(time.time() - start))}", flush=True)


class FakeData(Dataset):
    def __init__(self, size, classes, transform=None):
        self.size, self.classes, self.transform = size, classes, transform

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(index)
        image = torch.randn(3, 40, 40, generator=generator)
        label = int(torch.randint(0, self.classes, (), generator=generator))
        return (self.transform(image) if self.transform else image), label


def random_crop_and_flip(image, size=32):
    top, left = (int(torch.randint(0, edge - size + 1, ())) for edge in image.shape[1:])
    image = image[:, top : top + size, left : left + size]
    return image.flip(2) if torch.rand(()) < 0.5 else image


def center_crop(image, size=32):
    top, left = ((edge - size) // 2 for edge in image.shape[1:])
    return image[:, top : top + size, left : left + size]


class BasicBlock(nn.Module):
    def __init__(self, inputs, planes, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, planes, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = None
        if stride != 1 or inputs != planes:
            self.downsample = nn.Sequential(nn.Conv2d(inputs, planes, 1, stride, bias=False), nn.BatchNorm2d(planes))

    def forward(self, x):
        identity = x if self.downsample is None else self.downsample(x)
        x = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(x + identity)


def resnet(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=True),
        BasicBlock(8, 8),
        BasicBlock(8, 16, 2),
        BasicBlock(16, 32, 2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, classes),
    )


def accuracy(output, target, topk=(1,)):
    with torch.inference_mode():
        _, pred = output.topk(max(topk), 1)
        correct = pred.t() == target[None]
        return [correct[:k].flatten().sum(dtype=torch.float32) * (100.0 / target.size(0)) for k in topk]


def train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, args, scaler=None):
    model.train()
    logger = MetricLogger()
    for image, target in logger.log_every(data_loader, args.print_freq, f"Epoch: [{epoch}]"):
        image, target = image.to(device, non_blocking=True), target.to(device, non_blocking=True)
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=args.amp):
            output = model(image)
            loss = criterion(output, target)
        optimizer.zero_grad()
        if scaler is not None:
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            nn.utils.clip_grad_norm_(model.parameters(), args.clip_grad_norm)
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        acc1, acc5 = accuracy(output, target, topk=(1, 5))
        logger.update(n=image.shape[0], loss=loss, acc1=acc1, acc5=acc5)


def evaluate(model, criterion, data_loader, device):
    model.eval()
    logger = MetricLogger()
    with torch.inference_mode():
        for image, target in logger.log_every(data_loader, 100, "Test:"):
            output = model(image.to(device))
            loss = criterion(output, target.to(device))
            acc1, _ = accuracy(output, target.to(device), topk=(1, 5))
            logger.update(n=image.shape[0], loss=loss, acc1=acc1)
    for meter in logger.meters.values():
        meter.synchronize_between_processes()
    print(f"Test: Acc@1 {logger.meters['acc1'].global_avg:.3f}", flush=True)


def init_distributed_mode(args):
    if "RANK" not in os.environ:
        args.distributed, args.rank = False, 0
        return
    args.rank, args.world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    args.distributed = True
    dist.init_process_group("nccl" if args.device == "cuda" else "gloo")
    dist.barrier()


def main(args):
    init_distributed_mode(args)
    device = torch.device(args.device)
    torch.set_num_threads(1)
    train = FakeData(args.train_size, args.classes, random_crop_and_flip)
    test = FakeData(args.test_size, args.classes, center_crop)
    if args.distributed:
        train_sampler, test_sampler = DistributedSampler(train), DistributedSampler(test, shuffle=False)
    else:
        train_sampler, test_sampler = torch.utils.data.RandomSampler(train), torch.utils.data.SequentialSampler(test)
    more = {"batch_size": args.batch_size, "num_workers": args.workers}
    data_loader = DataLoader(train, sampler=train_sampler, pin_memory=False, **more)
    data_loader_test = DataLoader(test, sampler=test_sampler, **more)

    model = resnet(args.classes).to(device)
    if args.distributed and args.sync_bn:
        model = nn.SyncBatchNorm.convert_sync_batchnorm(model)
    criterion = nn.CrossEntropyLoss(label_smoothing=0.1)
    optimizer = torch.optim.SGD(model.parameters(), lr=args.lr, momentum=0.9, weight_decay=1e-4)
    scaler = torch.amp.GradScaler(device.type) if args.scaler else None
    main_schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=args.epochs)
    warmup = torch.optim.lr_scheduler.LinearLR(optimizer, start_factor=0.1, total_iters=1)
    schedule = torch.optim.lr_scheduler.SequentialLR(optimizer, [warmup, main_schedule], milestones=[1])
    model_without_ddp = model
    if args.distributed:
        model = nn.parallel.DistributedDataParallel(model)
        model_without_ddp = model.module

    print("Start training", flush=True)
    for epoch in range(args.epochs):
        if args.distributed:
            train_sampler.set_epoch(epoch)
        train_one_epoch(model, criterion, optimizer, data_loader, device, epoch, args, scaler)
        schedule.step()
        evaluate(model, criterion, data_loader_test, device)
        if args.output_dir and args.rank == 0:
            checkpoint = {
                "model": model_without_ddp.state_dict(),
                "optimizer": optimizer.state_dict(),
                "lr_scheduler": schedule.state_dict(),
                "epoch": epoch,
            }
            torch.save(checkpoint, os.path.join(args.output_dir, f"model_{epoch}.pth"))
            torch.save(checkpoint, os.path.join(args.output_dir, "checkpoint.pth"))
    if args.distributed:
        dist.destroy_process_group()


def get_args_parser():
    parser = argparse.ArgumentParser(description="Classification Training")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("-b", "--batch-size", default=16, type=int)
    parser.add_argument("--epochs", default=4, type=int)
    parser.add_argument("-j", "--workers", default=1, type=int)
    parser.add_argument("--lr", default=0.1, type=float)
    parser.add_argument("--clip-grad-norm", default=1.0, type=float)
    parser.add_argument("--print-freq", default=10, type=int)
    parser.add_argument("--output-dir", default="")
    parser.add_argument("--sync-bn", action="store_true")
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--scaler", action="store_true")
    parser.add_argument("--classes", default=10, type=int)
    parser.add_argument("--train-size", default=1000, type=int)
    parser.add_argument("--test-size", default=100, type=int)
    return parser


if __name__ == "__main__":
    main(get_args_parser().parse_args())
