"""A LightningModule on made-up data, on as many ranks as hpcjobs has started."""

import argparse
import os
import time

import lightning
import torch
from lightning.pytorch.plugins.environments import LightningEnvironment
from torch import nn
from torch.utils.data import DataLoader, TensorDataset


class Classifier(lightning.LightningModule):
    """Two layers."""

    def __init__(self, lr: float) -> None:
        super().__init__()
        self.lr = lr
        self.layers = nn.Sequential(nn.Linear(784, 512), nn.ReLU(), nn.Linear(512, 10))

    def training_step(self, batch: list[torch.Tensor], index: int) -> torch.Tensor:
        images, labels = batch
        return nn.functional.cross_entropy(self.layers(images), labels)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


class Speed(lightning.Callback):
    """Prints the samples per second of all ranks, from rank 0."""

    def __init__(self, batch: int, every: int) -> None:
        self.batch, self.every = batch, every
        self.since: float | None = None

    def on_train_batch_end(self, trainer: lightning.Trainer, *more: object) -> None:
        if trainer.global_step % self.every:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if trainer.is_global_zero and self.since is not None:
            speed = self.every * self.batch * trainer.world_size / (now - self.since)
            print(f"step {trainer.global_step} samples/s: {speed:.1f}", flush=True)
        self.since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32, help="samples of one rank in one step")
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--lr", type=float, default=0.05)
    args = parser.parse_args()

    generator = torch.Generator().manual_seed(0)
    data = TensorDataset(
        torch.randn(4096, 784, generator=generator), torch.randint(0, 10, (4096,), generator=generator)
    )
    trainer = lightning.Trainer(
        accelerator="auto",
        strategy="ddp",
        devices=int(os.environ.get("LOCAL_WORLD_SIZE", "1")),
        num_nodes=int(os.environ.get("HPCJOBS_NODES", "1")),
        # RANK and the rest are those that hpcjobs has set. Lightning's own plugin for Slurm would also requeue the job
        # by itself when it hears SIGUSR1.
        plugins=[LightningEnvironment()],
        max_steps=args.steps,
        callbacks=[Speed(args.batch, every=10)],
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,  # a bar is one endless line, in which no pattern finds the next figure
        enable_model_summary=False,
    )
    trainer.fit(Classifier(args.lr), DataLoader(data, args.batch, shuffle=True))


if __name__ == "__main__":
    main()
