#!/bin/bash
# A fake trainer, called as a rank like a profile's `python`: `trainer.sh -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`.
#
# It writes its host, its first step and the signals that it receives to DIR/fake-RANK. It takes a step every 0.1 s, and
# exits with 0 when RUN/finish or SWEEP/finish exists. After SIGUSR1 or SIGTERM rank 0 writes RUN/checkpoints/step-N,
# and each rank exits with 75, as the real trainer does.

rank="${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}"
run="$(dirname "$3")"
lines="$5/fake-$rank"
signalled=
trap 'signalled=1; echo SIGUSR1 >>"$lines"' USR1
trap 'signalled=1; echo SIGTERM >>"$lines"' TERM

step=0
for checkpoint in "$run"/checkpoints/step-*; do
    if [ -d "$checkpoint" ]; then step="${checkpoint##*-}"; fi
done
printf '%s\n' "$(hostname)" "step $step" >>"$lines"
while [ -z "$signalled" ]; do
    if [ -e "$run/finish" ] || [ -e "$run/../../finish" ]; then exit 0; fi
    sleep 0.1
    step=$((10#$step + 1))
done
# A checkpoint takes some time.
sleep 1
if [ "$rank" = 0 ]; then mkdir -p "$run/checkpoints/step-$(printf '%08d' "$((10#$step))")"; fi
exit 75
