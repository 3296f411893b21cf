"""Times a training loop from inside it, and takes its steps apart. One file, standard library only, Python 3.8 on.

    import meter
    for batch in meter.steps(loader, samples=64, model=ddp): ...

Outside of a run of hpcjobs (no HPCJOBS_METRICS) it is off: `steps` returns the loader itself.

The core is METER, one `Meter` per process. `steps` and the way with nothing edited (inject/meter_torch.py) are thin
drivers of it. What a driver tells METER:

    METER.drives(way)               may this driver ("loop", "auto", "callback") report now? Ask before each call below.
    METER.fetch(take, source, buffered)   hands out a batch: that of `take()`, or in (b) and (c) the one on the device.
        It is `before_fetch(take, source, buffered)`, `take()`, `after_fetch(batch, source)`. `source` tells loaders
        apart (any hashable); `buffered` is how many batches the loader prepares ahead (num_workers x prefetch_factor).
    METER.step_ended(optimizer)     an optimizer step is done, or the loop's body. A step ends at the first fetch after
        it, so several optimizers, and fetches without an optimizer step between them (accumulation), count once.
    METER.loop_began()              an epoch's loop begins.
    METER.pause()                   what happens from now until the next fetch is no part of a step: the end of a loader,
        an evaluation (a fetch that is surely not one of the training: pause(), then fetch past the meter). A source
        from which batches were taken without an optimizer step before another source goes on is an evaluation, too.
    METER.models, METER.optimizers  lists: each DistributedDataParallel or FSDP module, each optimizer, as it is made.
    METER.switches                  list of callables taking a bool: more ways to switch an all-reduce off and on.
    METER.off(why)                  a surprise: one line, and the training goes on without the meter.
    METER.phase                     of the next step: "warm", "time", "a", "b", "c".

`fetch` and `before_fetch` raise SystemExit(0) where a benchmark is done; nothing else of the meter's own ever.
"""
