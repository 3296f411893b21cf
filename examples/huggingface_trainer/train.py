"""Hugging Face's Trainer on a small GPT-2 with random weights and made-up text. Nothing is downloaded."""

import argparse
import os
import time

import torch
from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments


class MadeUp(torch.utils.data.Dataset):
    """Sequences of random tokens."""

    def __init__(self, sequences: int, length: int) -> None:
        self.tokens = torch.randint(0, 1000, (sequences, length), generator=torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        return len(self.tokens)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {"input_ids": self.tokens[index], "labels": self.tokens[index]}


class Speed(TrainerCallback):
    """Prints the sequences per second of all ranks, from rank 0, every `logging_steps` steps."""

    def __init__(self) -> None:
        self.since: float | None = None

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % args.logging_steps:
            return
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        if state.is_world_process_zero and self.since is not None:
            sequences = args.per_device_train_batch_size * args.gradient_accumulation_steps * args.world_size
            speed = args.logging_steps * sequences / (now - self.since)
            print(f"step {state.global_step} sequences/s: {speed:.1f}", flush=True)
        self.since = now


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=4, help="sequences of one rank in one step")
    parser.add_argument("--length", type=int, default=64, help="tokens of a sequence")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--lr", type=float, default=3e-4)
    options = parser.parse_args()

    length = options.length
    config = GPT2Config(vocab_size=1000, n_positions=length, n_embd=128, n_layer=2, n_head=4)
    arguments = TrainingArguments(
        output_dir=os.environ.get("HPCJOBS_RUN_DIR", "out"),
        per_device_train_batch_size=options.batch,
        max_steps=options.steps,
        learning_rate=options.lr,
        logging_steps=10,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,  # a bar of tqdm is one endless line, in which no pattern finds the next figure
        use_cpu=not torch.cuda.is_available(),
    )
    trainer = Trainer(GPT2LMHeadModel(config), arguments, train_dataset=MadeUp(4096, length), callbacks=[Speed()])
    trainer.train()


if __name__ == "__main__":
    main()
