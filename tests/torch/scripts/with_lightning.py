"""A LightningModule and its Trainer, as Lightning's introduction. It knows nothing of the meter."""

import os

import lightning
import torch
import torch.nn.functional as F
from lightning.pytorch.plugins.environments import LightningEnvironment
from planted import BATCH, Images, compute, network
from torch.utils.data import DataLoader


class Classifier(lightning.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def training_step(self, batch, index):
        inputs, labels = batch
        compute()
        loss = F.cross_entropy(self.network(inputs), labels)
        self.log("train_loss", loss)
        return loss

    def validation_step(self, batch, index):
        inputs, labels = batch
        self.log("val_loss", F.cross_entropy(self.network(inputs), labels))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)


torch.set_num_threads(1)
trainer = lightning.Trainer(
    accelerator="cpu",
    strategy="ddp",
    devices=int(os.environ["LOCAL_WORLD_SIZE"]),
    plugins=[LightningEnvironment()],
    max_epochs=100,
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(Classifier(), DataLoader(Images(100_000), BATCH), DataLoader(Images(5 * BATCH), BATCH))
