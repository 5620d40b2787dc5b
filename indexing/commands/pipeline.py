"""The reference implementation's data commands, under its flags: docs/coming-from-the-reference.md.

What the reference prints goes to stdout as it has it, progress and remarks to stderr. A command that was
stopped is run again with the same arguments and goes on.
"""

import argparse
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from indexing import corpus, paths
from indexing.chunking import CHUNK_SIZE
from indexing.commands import reading
from indexing.commands.declaring import declare
from indexing.commands.shown import progress
from indexing.embedder import DEFAULT_EMBEDDER, open_embedder
from indexing.errors import InputError
from indexing.pipeline.chunk_files import Chunked, ChunkFiles, jsonl_texts, write_chunks
from indexing.pipeline.embedding_files import Embedded, embed_chunks
from indexing.pipeline.examples import Examples
from indexing.pipeline.index_files import IndexEvent, ShardAdded, build_index, train_index
from indexing.pipeline.neighbour_files import Retrieved, retrieve_neighbours
from indexing.pipeline.prepare import DATA_SPEC, Settings, prepare
from indexing.pipeline.specs import read_data_spec, write_data_spec, write_index_spec
from indexing.pipeline.tokens import (
    DEFAULT_TOKENIZER,
    MARKS,
    MarkedTokenizer,
    keep_tokenizer,
    open_tokenizer,
    tokenizer_beside,
)

_TOKENIZER_HELP = f"a tokenizer.json or its folder, {DEFAULT_TOKENIZER}, a model's name, or a hub id"
_STANDARD_INPUT = Path("-")
_ARRAYS = {
    "--chunks": "chunks",
    "--seq2chunk": "first chunk of each document",
    "--chunk2seq": "document of each chunk",
    "--embeddings": "embeddings of the chunks",
    "--neighbours": "neighbours of the chunks",
}


def add(commands) -> None:
    """The reference's scripts have underscores in their names; they are understood too."""
    command = _command(
        commands, "tokenize-and-chunk", _tokenize, "cut documents into chunks of tokens", "tokenize_and_chunk"
    )
    command.add_argument(
        "input", type=Path, nargs="?", default=_STANDARD_INPUT,
        help='JSON lines with key "text" (standard input)',
    )  # fmt: skip
    command.add_argument("--chunks-out", metavar="FILE", type=Path, required=True, help="chunks.npy to write")
    command.add_argument(
        "--seq2chunk-index-out",
        "--seq2chunk-out",
        metavar="FILE",
        type=Path,
        required=True,
        help="first chunk of each document, .npy to write",
    )
    command.add_argument(
        "--chunk2seq-index-out",
        "--chunk2seq-out",
        metavar="FILE",
        type=Path,
        required=True,
        help="document of each chunk, .npy to write",
    )
    command.add_argument("--max-chunks", metavar="N", type=int, help="stop before there are more (no limit)")
    command.add_argument(
        "--chunk-size", metavar="N", type=int, default=CHUNK_SIZE, help="tokens of a chunk (%(default)s)"
    )
    command.add_argument(
        "--tokenizer", metavar="NAME", default=DEFAULT_TOKENIZER, help=f"{_TOKENIZER_HELP} (%(default)s)"
    )
    _add_marks(command, "reference")
    command.add_argument("--verbose", action="store_true", help="show progress")

    command = _command(commands, "embed-chunks", _embed, "embed chunks", "embed_chunks")
    command.add_argument("input", type=Path, help="tokenised chunks (.npy)")
    command.add_argument("output", type=Path, help="the embeddings (.npy)")
    command.add_argument(
        "--batch-size", metavar="N", type=int, default=64, help="chunks embedded at a time (%(default)s)"
    )
    _add_tokenizer_beside(command)
    command.add_argument(
        "--embedder", metavar="NAME", default=DEFAULT_EMBEDDER, help="sentence encoder (%(default)s)"
    )
    command.add_argument("--verbose", action="store_true", help="show progress")

    command = _command(
        commands,
        "train-faiss-index",
        _train,
        "train an empty faiss index on embeddings",
        "train_faiss_index",
    )
    command.add_argument("--spec", metavar="FILE", type=Path, required=True, help="index.spec.json")
    command.add_argument(
        "--index-type", metavar="FACTORY", help="faiss factory string (what suits the number of vectors)"
    )
    command.add_argument("--output", metavar="FILE", type=Path, required=True, help="the index to write")
    command.add_argument(
        "--max-training-vectors", metavar="N", type=int, help="train on so many, spread over all shards (all)"
    )
    command.add_argument("--use-gpus", action="store_true", help="use GPUs, where faiss has some")

    command = _command(
        commands,
        "build-faiss-index",
        _build,
        "fill a trained faiss index with embeddings",
        "build_faiss_index",
    )
    command.add_argument("--spec", metavar="FILE", type=Path, required=True, help="index.spec.json")
    command.add_argument(
        "--trained-index", metavar="FILE", type=Path, required=True, help="what train-faiss-index wrote"
    )
    command.add_argument(
        "--output-index", metavar="FILE", type=Path, required=True, help="the filled index to write"
    )
    _add_search(command)
    command.add_argument(
        "--num-queries",
        metavar="N",
        type=int,
        default=100_000,
        help="embeddings of each shard looked up to see whether they find themselves (%(default)s)",
    )

    command = _command(
        commands,
        "retrieve-neighbours",
        _retrieve,
        "find the neighbours of chunks with a faiss index",
        "retrieve_neighbours",
    )
    command.add_argument(
        "--query-embeddings",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="embeddings of the chunks that ask, one for each shard",
    )
    command.add_argument(
        "--query-chunk2seq",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="their documents, one for each shard",
    )
    command.add_argument(
        "--neighbours-output",
        metavar="FILE",
        type=Path,
        nargs="+",
        required=True,
        help="their neighbours to write, one for each shard",
    )
    command.add_argument("--index", metavar="FILE", type=Path, required=True, help="a filled faiss index")
    command.add_argument(
        "--index-spec", metavar="FILE", type=Path, required=True, help="what it was filled with"
    )
    command.add_argument("--num-neighbours", metavar="N", type=int, required=True, help="of each chunk")
    _add_margin(command)
    _add_search(command)

    command = _command(
        commands, "index-spec", _index_spec, "write an index.spec.json: the shards of an index"
    )
    command.add_argument("output", metavar="FILE", type=Path, help="the file to write")
    _add_shards(command, "--embeddings")

    command = _command(
        commands, "data-spec", _data_spec, "write a data.spec.json: the shards of a training set"
    )
    command.add_argument("output", metavar="FILE", type=Path, help="the file to write")
    _add_shards(command, "--neighbours")
    command.add_argument(
        "--index-spec",
        metavar="FILE",
        type=Path,
        required=True,
        help="the index.spec.json that neighbours are rows of",
    )
    command.add_argument(
        "--faiss-index", metavar="FILE", type=Path, help="the index that found them, for the record"
    )

    command = _command(
        commands, "dataset-demo", _browse, "look at a training set", "browse", "dataset_retro_demo"
    )
    command.add_argument("spec", type=Path, help="data.spec.json")
    command.add_argument(
        "--num-neighbours", metavar="N", type=int, help="neighbours to show of each chunk (all)"
    )
    command.add_argument(
        "--continuation-chunks",
        metavar="N",
        type=int,
        default=1,
        help="chunks to show after each neighbour (%(default)s)",
    )
    command.add_argument("--max-len", metavar="N", type=int, help="tokens to show of a sequence (all)")
    _add_tokenizer_beside(command)
    command.add_argument(
        "--sequence",
        type=int,
        nargs="+",
        metavar="N",
        help="show the sequences of these numbers, and ask for none",
    )

    command = _command(commands, "prepare", _prepare, "make a training set of documents, in one go")
    reading.add_files(command)
    command.add_argument("--out", metavar="DIR", type=Path, required=True, help="folder for the results")
    command.add_argument(
        "--tokenizer", metavar="NAME", default=paths.DEMO_MODEL, help=f"{_TOKENIZER_HELP} (%(default)s)"
    )
    _add_marks(command, "safe")
    command.add_argument(
        "--embedder", metavar="NAME", default=DEFAULT_EMBEDDER, help="sentence encoder (%(default)s)"
    )
    command.add_argument(
        "--chunk-size", metavar="N", type=int, default=CHUNK_SIZE, help="tokens of a chunk (%(default)s)"
    )
    command.add_argument(
        "--batch-size", metavar="N", type=int, default=64, help="chunks embedded at a time (%(default)s)"
    )
    command.add_argument(
        "--index-type", metavar="FACTORY", help="faiss factory string (what suits the number of chunks)"
    )
    command.add_argument(
        "--max-training-vectors", metavar="N", type=int, help="train the index on so many (all)"
    )
    command.add_argument(
        "--num-neighbours", metavar="N", type=int, default=2, help="neighbours of each chunk (%(default)s)"
    )
    _add_margin(command)
    command.add_argument(
        "--nprobe", metavar="N", type=int, help="lists to search (twice the square root of their number)"
    )


def _command(
    commands, name: str, run: Callable[[argparse.Namespace], None], does: str, *aliases: str
) -> argparse.ArgumentParser:
    return declare(commands, name, lambda arguments: _stoppable(run, arguments), does, *aliases)


def _add_marks(command: argparse.ArgumentParser, default: str) -> None:
    command.add_argument(
        "--special-tokens",
        choices=MARKS,
        default=default,
        help="reference: its ids, where a text that spells a special token gets it; safe: no text can, and "
        "each document ends with one end mark (%(default)s)",
    )


def _add_tokenizer_beside(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--tokenizer",
        metavar="NAME",
        help=f"{_TOKENIZER_HELP} (tokenizer.json beside the chunks, else {DEFAULT_TOKENIZER})",
    )


def _add_margin(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--retrieval-margin",
        type=int,
        metavar="N",
        help="the reference's filter: N more are fetched (its default is 4), and what is of the chunk's own "
        "document is left out (without: as many as it takes to have all neighbours)",
    )


def _add_search(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--nprobe",
        metavar="N",
        type=int,
        help="lists to search (twice the square root of their number; the reference: 1)",
    )
    command.add_argument("--use-gpus", action="store_true", help="use GPUs, where faiss has some")
    command.add_argument("--shard-index", action="store_true", help="spread the index over the GPUs")


def _add_shards(command: argparse.ArgumentParser, last: str) -> None:
    for option in ("--chunks", "--seq2chunk", "--chunk2seq", last):
        command.add_argument(
            option,
            metavar="FILE",
            type=Path,
            nargs="+",
            required=True,
            help=f"{_ARRAYS[option]}, one for each shard",
        )


def _stoppable(run: Callable[[argparse.Namespace], None], arguments: argparse.Namespace) -> None:
    try:
        run(arguments)
    except KeyboardInterrupt:
        _remark("stopped; run the same command again and it goes on")
        raise SystemExit(130) from None


def _tokenize(arguments: argparse.Namespace) -> None:
    tokenizer = open_tokenizer(arguments.tokenizer, arguments.special_tokens)
    _say_tokenizer(tokenizer)
    from_stdin = arguments.input == _STANDARD_INPUT
    if not from_stdin and not arguments.input.is_file():
        raise InputError(f"There is no file {arguments.input}. Name one of JSON lines, or pipe them in.")

    def texts():
        if from_stdin:
            yield from jsonl_texts(sys.stdin.buffer, "standard input")
        else:
            with open(arguments.input, "rb") as lines:
                yield from jsonl_texts(lines, arguments.input.name)

    keep_tokenizer(tokenizer, arguments.chunks_out.parent)
    out = ChunkFiles(arguments.chunks_out, arguments.seq2chunk_index_out, arguments.chunk2seq_index_out)
    events = write_chunks(
        texts, tokenizer, out, arguments.chunk_size, arguments.max_chunks, reopens=not from_stdin
    )
    _show_chunking(events, arguments.verbose)


def _show_chunking(events: Iterable[Chunked], verbose: bool) -> None:
    for event in events:
        if event.note:
            _remark(event.note)
        if verbose and event.documents:
            print(f"\rNum seqs: {event.documents - 1}    Num chunks: {event.chunks}", end="", flush=True)
    if verbose:
        print()


def _embed(arguments: argparse.Namespace) -> None:
    tokenizer = _tokenizer_of(arguments.input, arguments.tokenizer)
    embedder = open_embedder(arguments.embedder)
    if arguments.verbose:
        print("Embedding...", flush=True)
    show = _Throttled("embedded" if arguments.verbose else "")
    for event in embed_chunks(arguments.input, arguments.output, tokenizer, embedder, arguments.batch_size):
        show(event)


def _train(arguments: argparse.Namespace) -> None:
    events = train_index(
        arguments.spec,
        arguments.index_type,
        arguments.output,
        arguments.max_training_vectors,
        arguments.use_gpus,
    )
    _show_index(events, {"training": "Training index...", "saving": "Saving index..."})


def _build(arguments: argparse.Namespace) -> None:
    events = build_index(
        arguments.spec,
        arguments.trained_index,
        arguments.output_index,
        arguments.num_queries,
        arguments.nprobe,
        arguments.use_gpus,
        arguments.shard_index,
    )
    words = {
        "loading": "Loading index...",
        "adding": "Adding embedding shards...",
        "saving": "Saving index...",
    }
    _show_index(events, words)


def _show_index(events: Iterable[IndexEvent | ShardAdded], words: dict[str, str]) -> None:
    step, show = "", _Throttled("vectors")
    for event in events:
        if isinstance(event, ShardAdded):
            print(
                f"{event.number}:\t{event.vectors} vectors \tRecall@1: {event.recall_at_1} "
                f"\tQueries / s: {int(event.queries_per_second)}",
                flush=True,
            )
            continue
        if event.step != step and event.step in words:
            print(words[event.step], flush=True)
        step = event.step
        show(event)


def _retrieve(arguments: argparse.Namespace) -> None:
    events = retrieve_neighbours(
        arguments.query_embeddings,
        arguments.query_chunk2seq,
        arguments.neighbours_output,
        arguments.index,
        arguments.index_spec,
        arguments.num_neighbours,
        arguments.retrieval_margin,
        arguments.nprobe,
        arguments.use_gpus,
        arguments.shard_index,
    )
    print("Load index...", flush=True)
    _show_retrieval(events)


def _show_retrieval(events: Iterable[Retrieved]) -> None:
    step, show = "loading", _Throttled("neighbours")
    for event in events:
        if event.step == "loading" and event.total:
            print(f"Processing {event.query} ...\n  {event.note}", flush=True)
        else:
            if event.step != step:
                words = {"searching": "Running search...", "saving": "Saving retrieved neighbours..."}
                print(words.get(event.step, ""), flush=True)
            show(event)
        step = event.step


def _index_spec(arguments: argparse.Namespace) -> None:
    write_index_spec(arguments.output, _shards(arguments, "embeddings"))
    print(arguments.output)


def _data_spec(arguments: argparse.Namespace) -> None:
    write_data_spec(
        arguments.output, _shards(arguments, "neighbours"), arguments.index_spec, arguments.faiss_index
    )
    print(arguments.output)


def _shards(arguments: argparse.Namespace, last: str) -> list[dict[str, Path]]:
    columns = {key: getattr(arguments, key) for key in ("chunks", "seq2chunk", "chunk2seq", last)}
    counts = {key: len(files) for key, files in columns.items()}
    if len(set(counts.values())) > 1:
        raise InputError(f"Expected as many files of each kind, got {counts}. Name one for every shard.")
    missing = [str(file) for files in columns.values() for file in files if not file.is_file()]
    if missing:
        raise InputError(f"There is no file {missing[0]}. Make it before the spec that names it.")
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _browse(arguments: argparse.Namespace) -> None:
    # The tokenizer tells what padding is, and the spec where to look for one.
    first_chunks = read_data_spec(arguments.spec)[0][0]["chunks"]
    tokenizer = _tokenizer_of(first_chunks, arguments.tokenizer)
    examples = Examples(
        arguments.spec,
        tokenizer.pad_id,
        arguments.num_neighbours,
        arguments.continuation_chunks,
        arguments.max_len,
    )
    print(
        f"\n Input dataset:\n  - {len(examples)} sequences\n"
        f"  - {sum(map(len, examples.shards))} chunks\n  - {len(examples.shards)} shard(s)\n\n"
        f" Neighbour dataset:\n  - {sum(map(len, examples.neighbours))} neighbours\n"
        f"  - {len(examples.neighbours)} shard(s)\n\n"
        f" Retrieval dataset:\n  - {sum(store.num_documents for store in examples.index.shards)} sequences\n"
        f"  - {len(examples.index)} chunks\n  - {len(examples.index.shards)} shard(s)\n"
    )
    for number in arguments.sequence or ():
        _show_example(examples, number, tokenizer)
    while not arguments.sequence:
        try:
            answer = input("Enter a sequence index: ").strip()
        except EOFError:
            print()
            return
        if not answer or answer in ("q", "quit", "exit"):
            return
        try:
            _show_example(examples, int(answer), tokenizer)
        except ValueError:
            _remark(f"expected a whole number, 0 to {len(examples) - 1}, or nothing to stop")
        except InputError as error:
            _remark(str(error))


def _show_example(examples: Examples, number: int, tokenizer: MarkedTokenizer) -> None:
    example = examples[number]
    chunks = example.input_ids.reshape(-1, examples.chunk_size)
    print(
        f"\nShapes:\n input_ids:       {list(example.input_ids.shape)}\n"
        f" neighbour_ids:   {list(example.neighbour_ids.shape)}\n"
        f" labels:          {list(example.labels.shape)}\n\n"
        f"Input sequence:\n{tokenizer.decode(example.input_ids[None])[0]}\n"
    )
    for u, (text, neighbours) in enumerate(zip(tokenizer.decode(chunks), example.neighbour_ids, strict=True)):
        print(f"Input chunk {u + 1}:\n{text}\n")
        for j, neighbour in enumerate(tokenizer.decode(neighbours)):
            print(f"Neighbour {j + 1}:   {neighbour}")
        print("\n")


def _prepare(arguments: argparse.Namespace) -> None:
    tokenizer = open_tokenizer(arguments.tokenizer, arguments.special_tokens)
    _say_tokenizer(tokenizer)
    settings = Settings(
        chunk_size=arguments.chunk_size,
        index_type=arguments.index_type,
        max_training_vectors=arguments.max_training_vectors,
        num_neighbours=arguments.num_neighbours,
        margin=arguments.retrieval_margin,
        nprobe=arguments.nprobe,
        batch_size=arguments.batch_size,
    )
    report: corpus.Report | None = None

    def read():
        nonlocal report
        documents, report = reading.read(arguments)
        return documents

    files = [Path(file) for file in arguments.files]
    for file in files:
        if not file.exists():
            raise InputError(f"There is no file {file}. Name files, or folders of them.")
    steps = prepare(
        files, read, arguments.out, tokenizer, lambda: open_embedder(arguments.embedder), settings
    )
    name, show = "", _Throttled("")
    for step in steps:
        if step.event is None:
            _remark(f"{step.name}: done before")
            continue
        if step.name != name:
            name, show = step.name, _Throttled(step.name)
        show(step.event)
    if report is not None:
        reading.tell(report)
    print(arguments.out / DATA_SPEC)


class _Throttled:
    """Shows how far events are, once a second and at the end; remarks at once."""

    def __init__(self, what: str):
        self._what, self._last, self._shown = what, 0.0, (0, 0)

    def __call__(self, event: Any) -> None:
        if isinstance(event, ShardAdded):
            return
        if event.note:
            _remark(event.note)
        done, total = (event.chunks, 0) if isinstance(event, Chunked) else (event.done, event.total)
        now = time.monotonic()
        finished = isinstance(event, Embedded | Retrieved | IndexEvent) and done == total
        if self._what and done and (done, total) != self._shown and (finished or now - self._last > 1):
            progress(self._what, done, total)
            self._last, self._shown = now, (done, total)


def _tokenizer_of(chunks: Path, name: str | None) -> MarkedTokenizer:
    tokenizer = open_tokenizer(name or tokenizer_beside(chunks) or DEFAULT_TOKENIZER)
    _say_tokenizer(tokenizer)
    return tokenizer


def _say_tokenizer(tokenizer: MarkedTokenizer) -> None:
    wide = "" if tokenizer.vocab_size <= 1 << 16 else "; ids are stored as int32, not uint16"
    _remark(f"tokenizer {tokenizer.name}, {tokenizer.vocab_size:,} tokens{wide}")


def _remark(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
