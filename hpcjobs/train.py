"""`python -m hpcjobs.train`: job scripts of version 0.1 start the trainer by this name."""

import runpy

runpy.run_module("hpcjobs.chexnet.train", run_name="__main__", alter_sys=True)
