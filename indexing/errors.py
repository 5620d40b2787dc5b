"""Every error a user can cause or meet, in one tree.

RetroError                 shown to people as it is: what was expected, what came, what to do
├── ConfigError            a setting is unknown or out of bounds
├── InputError             a prompt, a request or a file of settings cannot be used
├── CorpusError            a document or a corpus cannot be read
├── DatastoreError         a datastore is missing, broken or cannot be built
│   └── MismatchError      tokenizer or embedder differ from the ones it was built with
├── ServiceError           a retrieval service cannot be reached, or answers what cannot be used
├── TraceError             a trace file is not one we can open
├── CheckpointError        weights, config and tokenizer do not belong together
└── TrainingError          a training run cannot go on

The command lines print the sentence and exit with 2; the web app shows it as a message. Anything
that is not a RetroError is a defect of ours and is never dressed up as one.
"""


class RetroError(Exception):
    """Base of all errors whose text is meant for the user."""


class ConfigError(RetroError):
    pass


class InputError(RetroError):
    pass


class CorpusError(RetroError):
    pass


class DatastoreError(RetroError):
    pass


class MismatchError(DatastoreError):
    pass


class ServiceError(RetroError):
    pass


class TraceError(RetroError):
    pass


class CheckpointError(RetroError):
    pass


class TrainingError(RetroError):
    pass
