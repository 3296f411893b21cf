"""`python -m hpcjobs.train`: the name that job scripts of version 0.1 call the trainer by."""

import runpy

runpy.run_module("hpcjobs.chexnet.train", run_name="__main__", alter_sys=True)
