"""Makes shards of X-rays: TFRecord files and `dataset.json` from NIH's files or from made-up images."""
