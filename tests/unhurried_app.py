"""`python app.py`, where writing takes its time while there is a file `slowly` in RETRO_HOME: for tests of
what can be done meanwhile, whatever the speed of the machine and of the model."""

import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLOWLY = "slowly"
PAUSE = 0.05  # seconds before each event of a run: a thousand tokens take the better part of a minute


def main() -> None:
    sys.path.insert(0, str(ROOT))
    from app import settings

    settings.prepare_environment()  # before gradio is imported
    from app import services
    from indexing import paths

    is_requested = services.stop_requested

    def after_a_pause(session: str) -> bool:
        if (paths.home() / SLOWLY).exists():
            time.sleep(PAUSE)
        return is_requested(session)

    services.stop_requested = after_a_pause  # what a run asks after each event
    runpy.run_path(str(ROOT / "app.py"), run_name="__main__")


if __name__ == "__main__":
    main()
