"""Hugging Face's Trainer with a model of one's own. It knows nothing of the meter."""

import sys

import torch
import torch.nn.functional as F
from planted import BATCH, Images, collate, compute, network
from torch import nn
from transformers import Trainer, TrainingArguments


class Classifier(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = network()

    def forward(self, pixels, labels, **more):  # as the library's own models, which take num_items_in_batch
        compute()
        logits = self.network(pixels)
        return {"loss": F.cross_entropy(logits, labels), "logits": logits}


class Named(Images):
    def __getitem__(self, index):
        pixels, label = super().__getitem__(index)
        return {"pixels": pixels, "labels": label}


torch.set_num_threads(1)
arguments = TrainingArguments(
    sys.argv[1],
    per_device_train_batch_size=BATCH,
    max_steps=10_000,
    use_cpu=True,
    ddp_backend="gloo",
    report_to=[],
    logging_steps=20,  # where it gathers the loss of all ranks
    save_strategy="no",
    disable_tqdm=True,
)
Trainer(Classifier(), arguments, train_dataset=Named(100_000), data_collator=collate).train()
