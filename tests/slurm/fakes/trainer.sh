#!/bin/bash
# A trainer in name only, as a rank of a run: `trainer.sh -m hpcjobs.chexnet.train RUN_YAML --attempt DIR`, a profile's `python`.
#
# DIR/fake-RANK has its host, the step it began at and the signals it hears. It takes a step every 0.1 s and ends
# well when RUN/finish or SWEEP/finish is there. After SIGUSR1 or SIGTERM rank 0 writes RUN/checkpoints/step-N, and
# each rank leaves with 75, as the real one does.

rank="${OMPI_COMM_WORLD_RANK:-${SLURM_PROCID:-0}}"
run="$(dirname "$3")"
said="$5/fake-$rank"
told=
trap 'told=1; echo SIGUSR1 >>"$said"' USR1
trap 'told=1; echo SIGTERM >>"$said"' TERM

step=0
for checkpoint in "$run"/checkpoints/step-*; do
    if [ -d "$checkpoint" ]; then step="${checkpoint##*-}"; fi
done
printf '%s\n' "$(hostname)" "step $step" >>"$said"
while [ -z "$told" ]; do
    if [ -e "$run/finish" ] || [ -e "$run/../../finish" ]; then exit 0; fi
    sleep 0.1
    step=$((10#$step + 1))
done
# A checkpoint takes some time.
sleep 1
if [ "$rank" = 0 ]; then mkdir -p "$run/checkpoints/step-$(printf '%08d' "$((10#$step))")"; fi
exit 75
