import sys

from retro_core.cli import main

sys.exit(main(sys.argv[1:]))
