"""Whether NumPy works here, and what keeps a GPU from being used: `python -m tinyseq.doctor`.

It is `tinyseq.backends.doctor`.
"""

import sys
from argparse import ArgumentParser

from tinyseq.backends.doctor import Facts, Finding, diagnose, main, probe

__all__ = ["Facts", "Finding", "diagnose", "main", "probe"]

if __name__ == "__main__":
    ArgumentParser("python -m tinyseq.doctor", description=__doc__).parse_args()  # it takes none
    sys.exit(main())
