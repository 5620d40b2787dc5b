"""One of several processes that train together: `torchrun … tests/training_worker.py CASES.json`, where CASES
lists the settings of the runs to train one after the other."""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from retro_core.config import TrainConfig
from retro_core.training import train

if __name__ == "__main__":
    for case in json.loads(Path(sys.argv[1]).read_text()):
        for _ in train(TrainConfig(**case)):
            pass
