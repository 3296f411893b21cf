"""A small BERT learns to tell two kinds of made-up sentences apart.

Modelled on Hugging Face's examples/pytorch/text-classification/run_glue.py (github.com/huggingface/transformers);
written anew, no line copied. Its dataset and tokenizer are made up here, because nothing is downloaded.
"""

import logging
import os
import random
import sys
from dataclasses import dataclass, field

import numpy as np
import torch
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertTokenizerFast,
    DataCollatorWithPadding,
    EvalPrediction,
    HfArgumentParser,
    Trainer,
    TrainingArguments,
    set_seed,
)

logger = logging.getLogger(__name__)
WORDS = [f"{a}{b}" for a in ("ba", "do", "ki", "lu", "me") for b in ("ra", "so", "ti", "nu", "pe")]


@dataclass
class DataTrainingArguments:
    max_seq_length: int = field(default=32, metadata={"help": "The maximum total input sequence length."})
    train_samples: int = field(default=400)
    eval_samples: int = field(default=64)


@dataclass
class ModelArguments:
    hidden_size: int = field(default=32)
    layers: int = field(default=2)


class Sentences(torch.utils.data.Dataset):
    def __init__(self, tokenizer, count, length, seed):
        chance = random.Random(seed)
        self.rows = []
        for _ in range(count):
            words = chance.choices(WORDS, k=chance.randint(4, 20))
            row = dict(tokenizer(" ".join(words), truncation=True, max_length=length))
            self.rows.append({**row, "label": int("bara" in words)})

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, index):
        return self.rows[index]


def main():
    parser = HfArgumentParser((ModelArguments, DataTrainingArguments, TrainingArguments))
    model_args, data_args, training_args = parser.parse_args_into_dataclasses()
    logging.basicConfig(format="%(asctime)s - %(levelname)s - %(name)s - %(message)s", stream=sys.stdout)
    set_seed(training_args.seed)
    torch.set_num_threads(1)

    os.makedirs(training_args.output_dir, exist_ok=True)
    vocabulary = {word: index for index, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS])}
    tokenizer = BertTokenizerFast(vocab=vocabulary)
    config = BertConfig(
        vocab_size=len(vocabulary),
        hidden_size=model_args.hidden_size,
        num_hidden_layers=model_args.layers,
        num_attention_heads=2,
        intermediate_size=64,
        num_labels=2,
    )
    model = BertForSequenceClassification(config)
    train_dataset = Sentences(tokenizer, data_args.train_samples, data_args.max_seq_length, 0)
    eval_dataset = Sentences(tokenizer, data_args.eval_samples, data_args.max_seq_length, 1)

    def compute_metrics(p: EvalPrediction):
        predictions = p.predictions[0] if isinstance(p.predictions, tuple) else p.predictions
        return {"accuracy": float((np.argmax(predictions, axis=1) == p.label_ids).mean())}

    trainer = Trainer(
        model=model,
        args=training_args,
        train_dataset=train_dataset if training_args.do_train else None,
        eval_dataset=eval_dataset if training_args.do_eval else None,
        compute_metrics=compute_metrics,
        processing_class=tokenizer,
        data_collator=DataCollatorWithPadding(tokenizer),
    )
    if training_args.do_train:
        result = trainer.train()
        trainer.save_model()
        trainer.log_metrics("train", result.metrics)
        trainer.save_state()
    if training_args.do_eval:
        trainer.log_metrics("eval", trainer.evaluate(eval_dataset=eval_dataset))


if __name__ == "__main__":
    main()
