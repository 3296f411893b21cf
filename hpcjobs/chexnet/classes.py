"""What the CheXNet trainer and the rooms that read its results both know: findings, splits, auc.csv, file names.

Standard library only, so that the control half can import it.
"""

from __future__ import annotations

from collections.abc import Mapping

# The 14 findings in the order of table 1 of the CheXNet paper (Rajpurkar et al., 2017,
# arXiv:1711.05225). Labels in shards, the model's outputs and every table follow it.
CLASSES: tuple[str, ...] = (
    "Atelectasis",
    "Cardiomegaly",
    "Effusion",
    "Infiltration",
    "Mass",
    "Nodule",
    "Pneumonia",
    "Pneumothorax",
    "Consolidation",
    "Edema",
    "Emphysema",
    "Fibrosis",
    "Pleural_Thickening",
    "Hernia",
)
NO_FINDING = "No Finding"
SPLITS: tuple[str, ...] = ("train", "val", "test")

# The file that describes a folder of shards.
DATASET_JSON = "dataset.json"

# Keras' own name for the file of DenseNet-121's convolutional part, under ~/.keras/models.
IMAGENET_FILE = "densenet121_weights_tf_dim_ordering_tf_kernels_notop.h5"

# The file of an attempt folder with the AUC of each finding, and the meaning of its columns, in their order.
AUC_CSV = "auc.csv"
AUC_MEANINGS: Mapping[str, str] = {
    "split": "val or test",
    "class": "the finding, or mean",
    "auc": "area under the ROC curve; empty where the split has no positives or no negatives",
    "positives": "images with the finding",
    "negatives": "images without it",
    "auc_low": "lower end of the 95 % interval, resampled by patient; of the test split only",
    "auc_high": "its upper end",
}
AUC_COLUMNS: tuple[str, ...] = tuple(AUC_MEANINGS)


def auc_name(split: str) -> str:
    """`score_name` of a mean AUC over the findings, on a split or on one that is not known."""
    return f"AUC ({split})" if split else "AUC"
