"""What keeps this machine's GPU from being used: `python -m tinyseq.doctor`, which is `tinyseq.backends.doctor`."""

import sys

from tinyseq.backends.doctor import Facts, Finding, diagnose, main, probe

__all__ = ["Facts", "Finding", "diagnose", "main", "probe"]

if __name__ == "__main__":
    sys.exit(main())
