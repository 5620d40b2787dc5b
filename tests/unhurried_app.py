"""`python app.py`, where writing takes its time while there is a file `slowly` in RETRO_HOME, and training is
done by tests/run_worker.py while there is a file `pretend`: for tests of what can be done meanwhile, whatever
the speed of the machine and of the model."""

import runpy
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
SLOWLY, PRETEND = "slowly", "pretend"
PAUSE = 0.2  # seconds before each event of a run: a thousand tokens take minutes, longer than a page comes up


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
    _pretend_to_train(paths.home() / PRETEND)
    runpy.run_path(str(ROOT / "app.py"), run_name="__main__")


def _pretend_to_train(file: Path) -> None:
    import run_worker

    from retro_core import runs

    command, check = runs.command, runs._check
    runs.command = lambda config: (run_worker.command if file.exists() else command)(config)
    runs._check = lambda config, folder: None if file.exists() else check(config, folder)


if __name__ == "__main__":
    main()
