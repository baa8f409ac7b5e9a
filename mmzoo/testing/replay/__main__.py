"""`python -m mmzoo.testing.replay FILE.json ...`"""

import sys

from mmzoo.testing.replay.command import main

if __name__ == "__main__":
    sys.exit(main())
