"""The cascade of a demo, with the plans it can follow, and its inputs as visitors and examples give them.

A soup or another single classifier is taken for a cascade of one member. Nothing here imports torch or transformers
before the first input is asked, so that the page can be there before the members are.
"""

from __future__ import annotations

import base64
import functools
import io
import math
import threading
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hf_soups.cascades.frontier import load_frontier
from hf_soups.cascades.plan import Plan, plan_values
from hf_soups.cascades.running.stored import StoredCascade, read_stored
from hf_soups.checkpoint import Checkpoint
from hf_soups.data.images import FORMATS, MOST_PIXELS, ROOM, Picture, picture
from hf_soups.demo.journeys import Always, Journey, Stage, journeys
from hf_soups.errors import DataError, HfSoupsError, InputError
from hf_soups.files.problem_types import CLASSIFICATION, OF_CONFIG, problem_type_of
from hf_soups.pool.entries import is_cascade, kind_of_head, one_model
from hf_soups.pool.rows import ImageFolder

if TYPE_CHECKING:
    from hf_soups.cascades.running.model import CascadeModel

BETWEEN = "|||"  # or a tab: between the two texts of a pair
MOST_EXAMPLES = 64
AT_ONCE = 32  # inputs of a batch that go through the members together


def plans_of(config: StoredCascade, frontier: str | Path | None = None) -> tuple[Plan, ...]:
    """The plans over a cascade's members, the cheapest first; of two that run alike only one.

    Args:
        config: of the cascade; the plan as built is always among them.
        frontier: a file of further plans instead of those that the cascade stores.
    Raises:
        InputError: if no plan of the file is over these members at these costs.
    """
    built = config.built
    further = config.plans if frontier is None else _fitting(config, Path(frontier))
    known = {plan.way: plan for plan in further if math.isfinite(plan.average_cost)} | {built.way: built}
    return tuple(sorted(known.values(), key=_dearness))


def dearest(config: StoredCascade) -> Always:
    """What the plans' costs are held against: the last member of the cascade as built, asked for every input."""
    return Always(config.built.members[-1], config.built.costs[-1], alone=len(config.members) == 1)


def _dearness(plan: Plan) -> tuple[float, float]:
    average = plan.average_cost if math.isfinite(plan.average_cost) else math.inf
    return average, plan.worst_cost


def _fitting(config: StoredCascade, path: Path) -> list[Plan]:
    """Plans that the members at hand can follow, costed as the cascade as built."""
    built, plans = config.built, load_frontier(path).plans
    own = dict(zip(built.members, built.costs, strict=True))
    fitting = [
        plan
        for plan in plans
        if (plan.unit, plan.hardware) == (built.unit, built.hardware)
        and all(own.get(name) == cost for name, cost in zip(plan.members, plan.costs, strict=True))
    ]
    if not fitting:
        raise InputError(
            f"{path}: none of its {len(plans)} plans is over the cascade's members ({', '.join(built.members)}) at "
            "their costs. Give the frontier that the cascade was built from, or leave it out: the cascade stores plans."
        )
    return fitting


@dataclass(frozen=True, eq=False)
class DemoCascade:
    """What the page shows.

    Inputs are paths of image files, texts, or pairs of texts, as `kind` says.
    """

    name: str
    config: StoredCascade
    plans: tuple[Plan, ...]  # the cheapest first
    _load: Callable[[], CascadeModel]
    _loading: threading.Lock = field(default_factory=threading.Lock)

    @functools.cached_property
    def _loaded(self) -> CascadeModel:
        return self._load()

    @property
    def model(self) -> CascadeModel:
        """The members, loaded when they are first asked for; whoever asks meanwhile waits.

        Raises:
            CheckpointError, MemberError: if they cannot be loaded.
        """
        with self._loading:
            return self._loaded

    @property
    def always(self) -> Always:
        """What the plans' costs are held against."""
        return dearest(self.config)

    @property
    def kind(self) -> str:
        """What an input is: "image", "text" or "text-pair"."""
        return self.config.kind

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes."""
        return self.config.label_names

    @property
    def built(self) -> int:
        """The number, among `plans`, of the plan that the cascade was built with."""
        return self.plans.index(self.config.built)

    def follow(self, inputs: Sequence[Any], plan: Plan) -> list[Journey]:
        """The ways of a batch of inputs; they leave where the cascade's pipeline lets them.

        Raises:
            DataError: if a file is no readable image.
            InputError: if a text is empty, or there are no inputs.
        """
        return self._follow([self._read(value) for value in inputs], plan)

    def follow_each(self, inputs: Sequence[Any], plan: Plan) -> list[Journey | str]:
        """As `follow`, with the reason in the place of an input that cannot be read."""
        starts = range(0, len(inputs), AT_ONCE)
        return [way for start in starts for way in self._chunk(inputs[start : start + AT_ONCE], plan)]

    def _chunk(self, inputs: Sequence[Any], plan: Plan) -> list[Journey | str]:
        values: list[Any] = []
        reasons: dict[int, str] = {}
        for i, value in enumerate(inputs):
            try:
                values.append(self._read(value))
            except HfSoupsError as error:
                reasons[i] = str(error)
        ways = iter(self._follow(values, plan) if values else ())
        return [reasons[i] if i in reasons else next(ways) for i in range(len(inputs))]

    def _read(self, value: Any) -> Any:
        return read_image(value) if self.kind == "image" else read_text(value)

    def _follow(self, values: Sequence[Any], plan: Plan) -> list[Journey]:
        from hf_soups.models.readers import RawRows

        stages: list[Stage] = []
        self.model.run(RawRows(values, len(values)), plan=plan, seen=lambda rows, own: stages.append((rows, own)))
        return journeys(plan, stages, len(values))


def load_demo_cascade(
    model: str | Path,
    *,
    name: str | None = None,
    frontier: str | Path | None = None,
    pair: bool = False,
    device: str | None = None,
) -> DemoCascade:
    """A cascade, or a single classifier as a cascade of one; its members are loaded when they are first asked.

    Args:
        model: a folder, or a Hub repo ("owner/name", "owner/name@revision").
        name: in the page's heading; default: the folder's or repo's.
        frontier: a file of plans for the slider, instead of those that the cascade stores.
        pair: a single text classifier takes pairs of texts; a cascade's config says so itself.
        device: where the members run; default: the GPU where there is one.
    Raises:
        InputError: if it is neither, or the frontier does not fit.
        CheckpointError: if it cannot be read.
    """
    checkpoint = _named(model)
    _check_one_class(checkpoint)
    several = is_cascade(checkpoint)
    config = read_stored(checkpoint.folder) if several else _of_one(checkpoint, pair)
    load = functools.partial(_cascade if several else _cascade_of_one, checkpoint, config, device)
    return DemoCascade(name or checkpoint.name, config, plans_of(config, frontier), load)


def _check_one_class(checkpoint: Checkpoint) -> None:
    config = checkpoint.config
    of_cascade = OF_CONFIG.get(str(config.get("problem_type")), CLASSIFICATION)
    of_type = of_cascade if is_cascade(checkpoint) else problem_type_of(config)
    if of_type != CLASSIFICATION:
        raise InputError(
            f"{checkpoint}: the page shows one class of several for each row, but this model's answers are of problem "
            f"type {of_type!r}. Answer rows with hf-soups predict --answers instead."
        )


def _named(model: str | Path) -> Checkpoint:
    checkpoint = one_model(model)
    if not checkpoint.is_adapter and not (checkpoint.folder / "config.json").is_file():
        raise InputError(
            f"{model}: neither a cascade nor a classifier, for there is no config.json. Give a folder that hf-soups "
            "cascade build or hf-soups cook wrote."
        )
    return checkpoint


def _class_for(kind: str) -> type[CascadeModel]:
    from hf_soups.cascades.running.model import CascadeForImageClassification, CascadeForSequenceClassification

    return CascadeForImageClassification if kind == "image" else CascadeForSequenceClassification


def _cascade(checkpoint: Checkpoint, config: StoredCascade, device: str | None) -> CascadeModel:
    hub: dict[str, Any] = {} if checkpoint.revision is None else {"revision": checkpoint.revision}
    where: Any = device or {"": _default_device()}  # members that have a device of their own stay there
    model: Any = _class_for(config.kind).from_pretrained(checkpoint.source, device_map=where, **hub)
    placed: CascadeModel = model.eval()
    return placed


def _of_one(checkpoint: Checkpoint, pair: bool) -> StoredCascade:
    """The classifier as the only member of a cascade that is nowhere on disk; it costs its parameters."""
    kind = kind_of_head(checkpoint, pair)
    names = checkpoint.label_names or tuple(f"class {i}" for i in range(_classes(checkpoint)))
    cost = float(checkpoint.parameters)
    plan = Plan((checkpoint.name,), (), (cost,), average_cost=cost, unit="parameters")
    members = [{"name": checkpoint.name, "subfolder": "member_0"}]
    return StoredCascade(kind, members, plan_values(plan), [], None, dict(enumerate(names)))


def _cascade_of_one(checkpoint: Checkpoint, stored: StoredCascade, device: str | None) -> CascadeModel:
    from hf_soups.cascades.running.config import CascadeConfig
    from hf_soups.cascades.running.members import load_one

    config = CascadeConfig(kind=stored.kind, members=stored.members, plan=stored.plan, id2label=stored.id2label)
    model: Any = _class_for(stored.kind)(config, [load_one(config, checkpoint.folder)])
    placed: CascadeModel = model.to(device or _default_device()).eval()
    return placed


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _classes(checkpoint: Checkpoint) -> int:
    table = checkpoint.config.get("id2label")
    return len(table) if table else int(checkpoint.config.get("num_labels", 2))


def read_image(path: str | Path) -> Any:
    """The image in a file, as the cascade's readers take it.

    Raises:
        DataError: if it is none, or damaged.
    """
    try:
        image = picture(Path(path), "it")
        if isinstance(
            image, Picture
        ):  # whether it is whole shows now, at little cost: it is decoded as small as can be
            with ROOM.taken(image.pixels(1)):
                image.decoded(1)
        return image
    except DataError as error:
        # nothing more of the reason: it may name places of this machine, and strangers read it
        size = _too_many_pixels(Path(path))
        why = f"it has {size}, and at most {MOST_PIXELS:,} are taken. Send a smaller one." if size else (
            f"it is damaged, or of another kind than {', '.join(FORMATS)}."
        )  # fmt: skip
        raise DataError(f"{Path(path).name} cannot be read as an image: {why}") from error


def _too_many_pixels(path: Path) -> str:
    """The size of an image that has too many pixels, in words; nothing of any other file."""
    from PIL import Image, UnidentifiedImageError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:  # the header alone
                wide, high = image.size
    except (OSError, ValueError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        return "too many pixels" if isinstance(error, Image.DecompressionBombError) else ""
    return f"{wide:,} x {high:,} pixels" if wide * high > MOST_PIXELS else ""


def thumbnail(path: str | Path, edge: int = 48) -> str:
    """A small picture of an image file as a data: address; nothing of a file that is none."""
    try:
        image = read_image(path)
        small = image.decoded(2 * edge) if isinstance(image, Picture) else image.copy()
    except HfSoupsError:
        return ""
    small.thumbnail((2 * edge, 2 * edge))  # two pixels of the picture for one of CSS
    held = io.BytesIO()
    small.convert("RGB").save(held, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(held.getvalue()).decode()}"


def read_text(text: str | tuple[str, str]) -> tuple[str, str | None]:
    """A text or a pair as the cascade's readers take it.

    Raises:
        InputError: if there is nothing but white space.
    """
    first, second = (text, None) if isinstance(text, str) else text
    if not all(part.strip() for part in (first, second) if part is not None):
        raise InputError(f"nothing to classify: {'the text' if second is None else 'a text of the pair'} is empty.")
    return first, second


def texts_of(lines: str) -> list[str]:
    """The texts of a text field or file, one on a line; empty lines are left out.

    >>> texts_of("a film\\n\\n a dull one ")
    ['a film', 'a dull one']
    """
    return [line.strip() for line in lines.splitlines() if line.strip()]


def pairs_of(lines: str) -> list[tuple[str, str]]:
    """Pairs, one on a line, their two texts separated by a tab or by |||.

    Raises:
        InputError: if a line has not two texts.

    >>> pairs_of("a cat ||| an animal")
    [('a cat', 'an animal')]
    """
    found = []
    for number, line in enumerate(lines.splitlines(), start=1):
        if not line.strip():
            continue
        parts = [part.strip() for part in line.replace("\t", BETWEEN).split(BETWEEN)]
        if len(parts) != 2 or not all(parts):
            raise InputError(
                f"line {number}: {line.strip()[:80]!r} is no pair. Write the first text, {BETWEEN} or a tab, and the "
                "second text."
            )
        found.append((parts[0], parts[1]))
    return found


def examples_of(source: str | Path | None, kind: str) -> Sequence[Any]:
    """What visitors can try: image files of a folder, or the lines of a text file.

    Args:
        source: a folder of images or one image file; for texts a UTF-8 file with one text, or pair, on a line.
        kind: what an input is: "image", "text" or "text-pair".
    Returns:
        At most 64 of them.
    Raises:
        InputError: if it is missing, or holds none.
    """
    if source is None:
        return ()
    path = Path(source).expanduser()
    if not path.exists():
        raise InputError(f"{path}: no such folder or file of examples. Check the path.")
    found = _images(path) if kind == "image" else _lines(path, kind)
    if not found:
        raise InputError(f"{path}: no examples in it. Give {_wanted(kind)}.")
    return found[:MOST_EXAMPLES]


def _wanted(kind: str) -> str:
    if kind == "image":
        return "a folder of images, or an image file"
    return (
        "a text file with one text on a line" if kind == "text" else f"a text file with one pair (a {BETWEEN} b) a line"
    )


def _images(path: Path) -> list[Any]:
    if path.is_file():
        return [path]
    try:
        folder = ImageFolder.of(path, MOST_EXAMPLES)
    except DataError:
        return []
    return [path / name for name in folder.files]


def _lines(path: Path, kind: str) -> list[Any]:
    if path.is_dir():
        raise InputError(f"{path}: a folder, but the cascade takes texts. Give {_wanted(kind)}.")
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: cannot be read as UTF-8 text ({error}). Give {_wanted(kind)}.") from error
    return list(texts_of(text) if kind == "text" else pairs_of(text))
