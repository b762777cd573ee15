"""The program `fault-origin` under the end-to-end test: the bucket or the folder, with faults at
random."""

import re
from pathlib import Path

from harness import Failed, wait_until

PROGRAM = Path(__file__).parents[2] / "target" / "debug" / "examples" / "fault-origin"

# A fifth of all requests fails, a fifth of all bodies is cut.
FIFTHS = "reset-before-head@0.05,500@0.05,503:1@0.05,slow-down@0.05,cut@0.1,reset@0.1"


class FaultOrigin:
    """A running `fault-origin`."""

    def __init__(self, programs, seed, *what):
        """`what` are its options: which folder it serves, or before which origin it stands."""
        self.programs = programs
        self.name = f"fault-origin-{seed}"
        self.process = programs.start(
            self.name, [PROGRAM, *what, "--seed", seed, "--fault", FIFTHS])
        self.url = wait_until(f"{self.name} listens", self.listens, 30)

    def listens(self):
        if self.process.poll() is not None:
            raise Failed(f"{self.name} ended with {self.process.returncode}:\n"
                         + self.programs.log(self.name))
        said = re.search(r"listening on (\S+)", self.said())
        return said and said[1]

    def said(self):
        return (self.programs.folder / f"{self.name}.log").read_text()

    def struck(self):
        """How many requests failed, and how many bodies were cut."""
        names = [line.split(" ")[0] for line in self.said().splitlines()[1:]]
        cut = sum(name in ("cut", "reset") for name in names)
        return len(names) - cut, cut

    def stop(self):
        self.programs.stop(self.process)
