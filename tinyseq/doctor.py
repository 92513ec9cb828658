"""What keeps this machine's GPU from being used: `python -m tinyseq.doctor`, which is `tinyseq.backends.doctor`."""

import sys

from tinyseq.backends import doctor

if __name__ == "__main__":
    sys.exit(doctor.main())
