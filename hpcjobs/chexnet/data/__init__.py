"""X-rays become shards: NIH's files or made-up images in, TFRecord shards and `dataset.json` out."""
