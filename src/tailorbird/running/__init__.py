"""A run: from a spec to a recommendation and files. `run.py` has its steps in order."""

from tailorbird.running.run import Finished, run_spec

__all__ = ["Finished", "run_spec"]
