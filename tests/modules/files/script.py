"""Print what it was given."""

import os
import sys

print(sys.argv[1:], os.getcwd(), sorted(os.environ))
sys.exit(4)
