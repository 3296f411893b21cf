#!/bin/bash
# torchrun, told which node this is. A command of an experiment is the same on all nodes; this script expands on each.
exec torchrun --node-rank="$NODE_RANK" "$@"
