"""Which index for how many vectors: settings, the advice for a size and an allowance, and what is refused.

    rows                        index                       bytes a vector, d = 384
    up to 200,000               SQ8, exact (`exact`)        392
    more                        IVFn,SQ8                    398
    more, and nothing deleted   HNSW32,SQ8 where allowed    656
    more, and little memory     IVFn,PQ(d/4)x4fs            62
    the same, d not even        IVFn,RaBitQ                 d/8 + 24

An index only proposes candidates; the k nearest of them are found by exact distances from the vectors in
their file. n is about 4 times the square root of the rows and at most a 39th of them, as faiss asks for 39
training vectors a list. Seconds and recall are what measurements on text say, see docs/indexes.md.
"""

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import Any

from indexing.errors import ConfigError

EXACT = "SQ8"  # answered by `exact.FlatIndex`, which needs no building
EXACT_ROWS = 200_000
VECTORS_PER_LIST = 39
TRAINING_PER_LIST = 64  # vectors a list is trained with; more find hardly better lists
TRAINING_ROUNDS = 8
# Rows that are not in the built index are searched exactly; beyond these the index is built again.
TAIL_ROWS, TAIL_SHARE = 50_000, 0.2

_ID_BYTES = 8
_HNSW_LINKS = 32
# Products of numbers a second that building achieves on one core; a guess to plan with.
_GFLOPS = 50e9
_ADDED_PER_SECOND = {"SQ8": 250_000, "fs": 60_000, "RaBitQ": 60_000, "HNSW": 1_500}
_NUMBER = re.compile(r"\d+")


def _setting(default: Any, help: str, low: float | None = None, high: float | None = None) -> Any:
    return field(default=default, metadata={"help": help, "low": low, "high": high})


@dataclass(frozen=True)
class IndexSettings:
    """What somebody asks of an index. Raises ConfigError where a number is out of bounds."""

    factory: str = _setting("", "faiss factory string, for example IVF1024,SQ8; empty: as advised")
    ram_mb: int = _setting(0, "megabytes of memory that it may take; 0: as advised", 0, 1 << 24)
    nprobe: int = _setting(
        0, "lists of an IVF that a query reads, or ef of an HNSW; 0: what the recall needs", 0, 1 << 20
    )
    candidates: int = _setting(
        0, "candidates per neighbour that are compared exactly; 0: what the recall needs", 0, 4096
    )
    recall: float = _setting(0.95, "share of the true 10 nearest that sampled queries shall find", 0.0, 1.0)
    deletes: bool = _setting(True, "documents may be deleted later")
    use_gpus: bool = _setting(False, "train on GPUs where faiss has some")

    def __post_init__(self):
        for spec in dataclasses.fields(self):
            value, low, high = getattr(self, spec.name), spec.metadata["low"], spec.metadata["high"]
            kind = {"str": str, "int": int, "bool": bool, "float": (int, float)}.get(
                getattr(spec.type, "__name__", spec.type), object
            )
            if not isinstance(value, kind) or (kind is int and isinstance(value, bool)):
                raise ConfigError(f"Expected {spec.name} to be {spec.type.__name__}, got {value!r}. {_SEE}")
            if low is not None and not low <= value <= high:
                raise ConfigError(f"Expected {spec.name} between {low:,} and {high:,}, got {value!r}. {_SEE}")

    @property
    def build_key(self) -> list:
        """What a built index depends on; the rest can be changed without building again."""
        return [self.factory, self.ram_mb, self.recall, self.deletes if not self.factory else True]


_SEE = "python -m indexing index --help says what each setting does."


@dataclass(frozen=True)
class Advice:
    """What to build, what to expect of it, and why. `nprobe` is where the search for enough recall begins."""

    factory: str
    nprobe: int
    candidates: int
    ram_bytes: int
    build_seconds: float
    recall: float
    reason: str

    @property
    def exact(self) -> bool:
        return self.factory == EXACT


def advise(n: int, dim: int, ram_budget_bytes: int | None = None, deletes: bool = True) -> Advice:
    """The index for n vectors of `dim` numbers within a memory budget (None: about a byte a number), where
    documents may be deleted or not."""
    if n <= EXACT_ROWS:
        ram = exact_bytes(n, dim)
        if ram_budget_bytes is None or ram <= ram_budget_bytes or n < 10_000:
            return Advice(
                EXACT, 0, 0, ram, n * dim / 2e8, 1.0,
                f"{n:,} vectors are few enough to compare all of them, from a copy in 8 bits a number.",
            )  # fmt: skip
    nlist = lists_for(n)
    lists = f"IVF{nlist}"
    plain = f"{lists},SQ8"
    hnsw = f"HNSW{_HNSW_LINKS},SQ8"
    if ram_budget_bytes is not None and not deletes and ram_of(hnsw, n, dim) <= ram_budget_bytes:
        reason = "Nothing will be deleted and there is memory for a graph, the quickest to search."
        return _advice(hnsw, 64, 4, n, dim, 0.96, reason)
    if ram_budget_bytes is None or ram_of(plain, n, dim) <= ram_budget_bytes:
        reason = f"{n:,} vectors are too many to compare all: a query reads some of {nlist:,} lists."
        return _advice(plain, max(1, nlist // 64), 4, n, dim, 0.96, reason)
    parts = next((m for m in range(dim // 4, 0, -1) if dim % m == 0), 1)
    small = f"{lists},PQ{parts}x4fs" if parts * 8 >= dim else f"{lists},RaBitQ"
    ram = ram_of(small, n, dim)
    reason = f"Within {ram_budget_bytes / 1e6:,.0f} MB only short codes fit; the file's vectors correct them."
    if ram > ram_budget_bytes:
        reason = (
            f"Nothing fits into {ram_budget_bytes / 1e6:,.1f} MB; this is the smallest, and takes "
            f"{ram / 1e6:,.1f} MB."
        )
    return _advice(small, max(1, nlist // 32), 40, n, dim, 0.95, reason)


def advice_for(settings: IndexSettings, n: int, dim: int) -> Advice:
    """The advisor's, or what to expect of the factory string that the settings ask for."""
    if not settings.factory:
        return advise(n, dim, settings.ram_mb * 10**6 or None, settings.deletes)
    factory = settings.factory
    coarse = any(word in factory for word in ("PQ", "RaBitQ", "SQ4"))
    lists = lists_in(factory)
    return Advice(
        factory, max(1, lists // 64) if lists else 32, 40 if coarse else 4, ram_of(factory, n, dim),
        build_seconds(factory, n, dim), settings.recall, "Asked for.",
    )  # fmt: skip


def lists_for(n: int) -> int:
    """The power of two nearest to 4 √n, and never more than n / 39."""
    power = 2 ** round(math.log2(4 * math.sqrt(max(1, n))))
    return max(1, min(power, n // VECTORS_PER_LIST))


def exact_bytes(n: int, dim: int) -> int:
    return n * (dim + _ID_BYTES)


def ram_of(factory: str, n: int, dim: int) -> int:
    """Bytes that an index of n vectors takes, by its factory string; a guess where the string is unusual."""
    lists = lists_in(factory)
    total = lists * dim * 4 + (n * _ID_BYTES if lists else 0)
    links = _numbers_after("HNSW", factory.split("IVF")[0])
    total += n * (2 * 4 * links + 16) if links else 0
    parts, bits = _pq(factory)
    if parts:
        code = -(-parts * bits // 8)
    elif "RaBitQ" in factory:
        code = -(-dim // 8) + 8
    elif scalar := re.search(r"SQ(fp16|bf16|\d+)", factory):
        code = dim * (16 if scalar[1].endswith("16") else int(scalar[1])) // 8
    else:
        code = dim * 4
    return total + n * code


def build_seconds(factory: str, n: int, dim: int) -> float:
    """A guess for one core."""
    lists = lists_in(factory)
    trained = min(n, TRAINING_PER_LIST * lists)
    seconds = 2 * dim * lists * (TRAINING_ROUNDS * trained + n) / _GFLOPS
    kind = next((kind for kind in ("HNSW", "fs", "RaBitQ") if kind in factory.replace("_HNSW", "")), "SQ8")
    parts, bits = _pq(factory)
    if parts and bits == 8:
        seconds += parts * 3  # 256 centroids each
    return seconds + n / _ADDED_PER_SECOND[kind]


def lists_in(factory: str) -> int:
    """Lists of an IVF; 0 without one."""
    return _numbers_after("IVF", factory)


def check_factory(factory: str, n: int, dim: int) -> None:
    """Raises ConfigError if no index of n vectors of `dim` numbers can be made by `factory`."""
    import faiss

    if len(factory) > 100 or any(int(number) > 1 << 24 for number in _NUMBER.findall(factory)):
        raise ConfigError(f"Expected a faiss factory string, got {factory[:100]!r}. {_FOR_EXAMPLE}")
    lists, (parts, bits) = lists_in(factory), _pq(factory)
    if lists and n < VECTORS_PER_LIST * lists:
        raise ConfigError(
            f"Expected at least {VECTORS_PER_LIST} vectors for each of the {lists:,} lists of {factory!r}, "
            f"got {n:,} vectors. Use at most IVF{max(1, n // VECTORS_PER_LIST)}, or let the advisor choose."
        )
    if parts and n < 1 << bits:
        raise ConfigError(
            f"Expected at least {1 << bits:,} vectors to train {factory!r}, got {n:,}. Leave the product "
            "quantiser out, or let the advisor choose."
        )
    if _numbers_after("HNSW", factory) > 512:
        raise ConfigError(f"Expected at most 512 links in {factory!r}. HNSW32 is usual.")
    if re.search(r"IDMap|Refine|^B|\bLSH|ITQ|Residual|LSQ", factory):
        raise ConfigError(
            f"{factory!r} cannot be used here: rows are numbered and compared exactly already, by squared L2 "
            f"distance. {_FOR_EXAMPLE}"
        )
    try:
        index = faiss.index_factory(dim, factory, faiss.METRIC_L2)
    except (RuntimeError, MemoryError) as error:
        raise ConfigError(
            f"faiss knows no index {factory!r} of {dim} dimensions ({said_by_faiss(error)}). {_FOR_EXAMPLE}"
        ) from error
    if index.metric_type != faiss.METRIC_L2 or index.d != dim:
        raise ConfigError(f"Expected an index by squared L2 distance, {factory!r} is none. {_FOR_EXAMPLE}")


_FOR_EXAMPLE = "Examples: IVF1024,SQ8 or HNSW32 or IVF1024,PQ96x4fs or OPQ64_256,IVF1024,PQ64."


def said_by_faiss(error: BaseException) -> str:
    """The reason in faiss' message, without where in its source it stands."""
    text = str(error).strip().splitlines()
    reason = text[-1] if text else type(error).__name__
    return re.sub(r"^.*?Error: ", "", re.sub(r"Error in .*? at \S+ ", "", reason))[:200] or "no reason given"


def _advice(
    factory: str, nprobe: int, candidates: int, n: int, dim: int, recall: float, reason: str
) -> Advice:
    ram, seconds = ram_of(factory, n, dim), build_seconds(factory, n, dim)
    return Advice(factory, nprobe, candidates, ram, seconds, recall, reason)


def _numbers_after(word: str, factory: str) -> int:
    found = re.search(rf"(?:^|[,(]){word}(\d+)([kKM]?)", factory)
    return int(found[1]) * {"": 1, "k": 1024, "K": 1024, "M": 1 << 20}[found[2]] if found else 0


def _pq(factory: str) -> tuple[int, int]:
    """(sub-quantisers, bits of each) of PQ64, PQ64x4fs and the like; (0, 0) without one."""
    found = re.search(r"(?:^|,)PQ(\d+)(?:x(\d+))?", factory)
    return (int(found[1]), int(found[2] or 8)) if found else (0, 0)
