#!/bin/bash
# A fake trainer, as a rank of a run: `trainer.sh -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`, as a profile's `python` is called.
#
# DIR/fake-RANK has its host, its first step and the signals it received. It takes a step every 0.1 s, and ends with 0
# once RUN/finish or SWEEP/finish exists. After SIGUSR1 or SIGTERM rank 0 writes RUN/checkpoints/step-N, and each rank
# ends with 75, like the real trainer.

rank="${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}"
run="$(dirname "$3")"
output="$5/fake-$rank"
signalled=
trap 'signalled=1; echo SIGUSR1 >>"$output"' USR1
trap 'signalled=1; echo SIGTERM >>"$output"' TERM

step=0
for checkpoint in "$run"/checkpoints/step-*; do
    if [ -d "$checkpoint" ]; then step="${checkpoint##*-}"; fi
done
printf '%s\n' "$(hostname)" "step $step" >>"$output"
while [ -z "$signalled" ]; do
    if [ -e "$run/finish" ] || [ -e "$run/../../finish" ]; then exit 0; fi
    sleep 0.1
    step=$((10#$step + 1))
done
# A checkpoint takes some time.
sleep 1
if [ "$rank" = 0 ]; then mkdir -p "$run/checkpoints/step-$(printf '%08d' "$((10#$step))")"; fi
exit 75
