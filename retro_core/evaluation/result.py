"""What a result is called and where it lies; see docs/formats.md. Without torch, for those who only read."""

# Whoever changes what a part holds or how it is computed raises the version: kept parts are then made anew.
FORMAT, VERSION = "retro-evaluation", 1
RESULT_FILE = "evaluation.json"
PROGRESS_FILE, SO_FAR_FILE = "progress.json", "so-far.json"
PARTS_DIR = "parts"
HTML_FILE = "report.html"
