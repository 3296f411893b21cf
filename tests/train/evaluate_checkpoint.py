"""`RUN_YAML --attempt DIR` on each rank: rank 0 prints the scores of the newest checkpoint as JSON, by split."""

import dataclasses
import json
import os
import sys
from pathlib import Path

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import horovod.tensorflow as hvd

from hpcjobs.base import contract
from hpcjobs.chexnet.data.dataset import load_dataset
from hpcjobs.chexnet.train import evaluation, input, model

run_yaml = Path(sys.argv[1])
hvd.init()
data = load_dataset(Path(contract.load_run(run_yaml).data_dir))
weights = sorted((run_yaml.parent / "checkpoints").glob("step-*"))[-1] / "model.weights.h5"
network = model.build("densenet_tiny", data.image_size, data.pixel_mean, data.pixel_std, str(weights))
predict = evaluation.predictor(network)
results = {}
for split in ("val", "test"):
    batches = input.eval_batches(data, split, rank=hvd.rank(), size=hvd.size(), batch=4, cpus=1)
    results[split] = dataclasses.asdict(evaluation.evaluate(predict, batches, split))
if hvd.rank() == 0:
    json.dump(results, sys.stdout)
