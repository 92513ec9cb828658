"""Whether NumPy works here, and what keeps a GPU from being used: `python -m tinyseq.doctor`.

It is `tinyseq.backends.doctor`.
"""

import sys

from tinyseq.backends.doctor import Facts, Finding, diagnose, main, probe

__all__ = ["Facts", "Finding", "diagnose", "main", "probe"]

if __name__ == "__main__":
    sys.exit(main())
