"""Loading with a known head: which parameters are new is never left to chance or to the log.

transformers makes a model without memory first, and then a tensor for everything that its weights do not hold. So what
is counted while it is made, and refused when it is far from the weights, costs nothing.
"""

from __future__ import annotations

import errno
import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

import torch

from hf_soups.checkpoint import Checkpoint, TensorInfo
from hf_soups.errors import CheckpointError, DataError, HfSoupsError, InputError, is_short_of_memory
from hf_soups.files.configs import check_config, check_tokenizer
from hf_soups.files.hub_refusals import check_token
from hf_soups.files.loaded_names import SELF_MADE, key_mapping
from hf_soups.limits import limit_reached
from hf_soups.models.layers import head_parameters
from hf_soups.recipe.prompts import PROMPT_KEY, WORDS_KEY

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel


class InRepo(TypedDict, total=False):
    """Where inside a repo a checkpoint is: by default the newest commit's top folder."""

    revision: str | None
    subfolder: str | None


class HowLoaded(InRepo, total=False):
    """Where a model is, and how it computes: by default in float32, with the attention that its class prefers."""

    dtype: torch.dtype
    attention: str | None


def in_repo(how: HowLoaded) -> InRepo:
    """The place alone."""
    return {"revision": how.get("revision"), "subfolder": how.get("subfolder")}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A model and the names of its parameters that do not come from the checkpoint."""

    model: PreTrainedModel
    new_parameters: tuple[str, ...]


TIMES = 8  # what the weights hold may be registered so often: tied tensors have many names, loading names them again
SLACK = (2**24, 10_000)  # numbers and tensors beyond that: heads and poolers that a checkpoint does not hold


@contextmanager
def within_weights(tensors: Mapping[str, TensorInfo], at: str) -> Iterator[None]:
    """Refuse a model, made in the block by this thread, that is far larger than the weights that it is made for.

    Raises:
        CheckpointError: naming `at`, as soon as too many numbers or tensors were registered.
    """
    from torch.nn.modules import module

    held = (sum(info.elements for info in tensors.values()), len(tensors))
    most = tuple(TIMES * count + slack for count, slack in zip(held, SLACK, strict=True))
    counts, mine = [0, 0], threading.get_ident()

    def registered(_module: Any, _name: str, what: Any) -> None:
        if threading.get_ident() != mine:
            return
        counts[0] += what.numel() if hasattr(what, "numel") else 0
        counts[1] += 1
        if counts[0] > most[0] or counts[1] > most[1]:
            raise CheckpointError(
                f"{at}: config.json asks for a model of more than {min(counts[0], most[0]):,} numbers in {counts[1]:,} "
                f"parts, but the weights beside it hold {held[0]:,} in {held[1]:,} tensors. They do not belong "
                "together: save or download the checkpoint again."
            )

    with ExitStack() as hooks:
        for hook in (
            module.register_module_parameter_registration_hook,
            module.register_module_buffer_registration_hook,
            module.register_module_module_registration_hook,
        ):
            hooks.callback(hook(registered).remove)
        yield


# A pooler may be missing from a body (MiniLM: 1%); when more is, the names of the checkpoint do not fit the model.
MISSING_BODY = 0.25
LAYER = re.compile(r"\.\d+\.")  # the number of a layer in a parameter's name
OTHER_TASKS = re.compile(
    "For(TokenClassification|QuestionAnswering|MultipleChoice|NextSentencePrediction|ObjectDetection|"
    r"\w*Segmentation|DepthEstimation)$"
)  # as config.json names the classes of models that do not answer rows
NO_HEAD = "Fine-tune it first, or load it with a new head (load_with_new_head)."


def place(source: str | Path, *, subfolder: str | None = None, **_: Any) -> str:
    """How errors name a checkpoint: without its revision."""
    return f"{source}/{subfolder}" if subfolder else str(source)


def named_model(model: Any) -> str:
    """How errors call a model that is loaded: by where it was loaded from, if that is known."""
    inner = getattr(model, "module", model)
    return getattr(getattr(inner, "config", None), "name_or_path", None) or type(inner).__name__


def config_of(source: str | Path, *, revision: str | None = None, subfolder: str | None = None) -> PreTrainedConfig:
    """The config of a checkpoint.

    Raises:
        CheckpointError: if there is none, or none that transformers knows.
    """
    from transformers import AutoConfig, PreTrainedConfig

    with readable(source, subfolder, "config.json"):
        content, _ = PreTrainedConfig.get_config_dict(str(source), **where(revision, subfolder))
        check_config(content, place(source, subfolder=subfolder))
        config: PreTrainedConfig = AutoConfig.from_pretrained(str(source), **where(revision, subfolder))
    return config


UNLIMITED = 10**9  # tokens of a row, where no limit is set: tokenizers say 1e30 then, some -1


def load_tokenizer(source: str | Path, **at: Unpack[InRepo]) -> Any:
    """The tokenizer of a checkpoint.

    Raises:
        CheckpointError: if it cannot be loaded, or none of its files is there: transformers then makes one that knows
            special tokens alone, and says nothing.
    """
    from transformers import AutoTokenizer
    from transformers.models.auto.tokenization_auto import get_tokenizer_config

    with readable(source, at.get("subfolder"), "tokenizer.json"):
        check_tokenizer(get_tokenizer_config(str(source), **where(**at)), place(source, **at))
        tokenizer = AutoTokenizer.from_pretrained(str(source), **where(**at))
    folder, own = Path(source) / (at.get("subfolder") or ""), tokenizer.vocab_files_names  # empty: it needs none
    files = {*own.values(), "tokenizer.json"}
    if folder.is_dir() and own and not any((folder / name).is_file() for name in files):
        raise CheckpointError(
            f"{folder}: no tokenizer there; expected {' or '.join(sorted(files))}. Save the tokenizer that the model "
            "was trained with beside it (save_pretrained)."
        )
    return tokenizer


def load_image_processor(source: str | Path, **at: Unpack[InRepo]) -> Any:
    """The image processor of a checkpoint that works with PIL, whether or not torchvision is there.

    Raises:
        CheckpointError: if it cannot be loaded.
    """
    from transformers import AutoImageProcessor

    load: Any = AutoImageProcessor.from_pretrained
    with readable(source, at.get("subfolder"), "preprocessor_config.json"):
        return load(str(source), backend="pil", **where(**at))


def load_own_head(
    auto: Any, source: str | Path, *, subfolder: str | None = None, advice: str = NO_HEAD, **how: Any
) -> PreTrainedModel:
    """The model exactly as the checkpoint holds it; `auto` is an AutoModelFor... class.

    Raises:
        CheckpointError: if a parameter is missing or has another shape; `advice` says what to do then.
    """
    revision = how.pop("revision", None)
    config = config_of(source, revision=revision, subfolder=subfolder)  # its numbers are checked before they are used
    _check_task(config, place(source, subfolder=subfolder))
    checkpoint = Checkpoint(source, revision, subfolder)
    with fitting(checkpoint):
        model, info = auto.from_pretrained(
            str(source), use_safetensors=True, output_loading_info=True, **unwrapped(checkpoint),
            **where(revision, subfolder), **options(**how),
        )  # fmt: skip
    _check_layers(model, info, place(source, subfolder=subfolder))
    # BatchNorm's counter of training steps is not in weights of old versions of torch; answering does not read it.
    # Other such buffers transformers makes
    missing = [n for n in info["missing_keys"] if not SELF_MADE.search(n) or n.endswith(".bias")]
    if missing:
        raise CheckpointError(
            f"{place(source, subfolder=subfolder)}: {type(model).__name__} needs {named(missing)}, which the "
            f"checkpoint does not hold. {advice}"
        )
    return _with_padding_token(model.eval(), checkpoint)


def load_new_head(
    auto: Any,
    source: str | Path,
    *,
    label_names: Sequence[str],
    seed: int,
    subfolder: str | None = None,
    config: PreTrainedConfig,
    **how: Any,
) -> Loaded:
    """The body of the checkpoint with the head that a fresh model made under `seed` has.

    Parameters outside the body, and those that the checkpoint lacks (BERT's pooler in MiniLM), are new.

    Raises:
        CheckpointError: if the body does not fit the checkpoint.
    """
    labelled(config, label_names)
    for key in (WORDS_KEY, PROMPT_KEY):  # a head of its own now: label words answer no longer
        config.__dict__.pop(key, None)
    revision = how.pop("revision", None)
    # loading draws random numbers too, for what it then overwrites
    checkpoint = Checkpoint(source, revision, subfolder)
    with seeded(seed), fitting(checkpoint):
        model, info = auto.from_pretrained(
            str(source), config=config, use_safetensors=True, output_loading_info=True, ignore_mismatched_sizes=True,
            **unwrapped(checkpoint), **where(revision, subfolder), **options(**how),
        )  # fmt: skip
        torch.default_generator.manual_seed(seed)
        fresh = auto.from_config(config)
    head = set(head_parameters(model))
    _check_body(model, info, head, place(source, subfolder=subfolder))
    new = tuple(name for name, _ in model.named_parameters() if name in head | set(info["missing_keys"]))
    source_of = dict(fresh.named_parameters())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in new:
                parameter.copy_(source_of[name])
    return Loaded(_with_padding_token(model.eval(), checkpoint), new)


def unwrapped(checkpoint: Checkpoint) -> dict[str, Any]:
    """What from_pretrained needs to find tensors that were saved with a wrapper around the model."""
    mapping = key_mapping(checkpoint.stored_names)
    return {"key_mapping": mapping} if mapping else {}


def knows(auto: Any, model_type: Any) -> bool:
    """Whether an AutoModelFor... class loads this `model_type`: one of transformers' own, or one registered with it."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    classes = auto._model_mapping
    own = model_type in classes._model_mapping
    return own or (model_type in CONFIG_MAPPING and CONFIG_MAPPING[model_type] in classes._extra_content)


def labelled(config: PreTrainedConfig, label_names: Sequence[str]) -> None:
    """Write the label names into a config, for one label a row."""
    config.id2label = dict(enumerate(label_names))
    config.label2id = {name: i for i, name in enumerate(label_names)}
    config.problem_type = "single_label_classification"


def _check_task(config: PreTrainedConfig, at: str) -> None:
    """Refuse models that answer something else than rows, though some of their heads would fit."""
    other = next((name for name in config.architectures or () if OTHER_TASKS.search(name)), None)
    if other is not None:
        raise CheckpointError(
            f"{at}: a {other}, which does not give one answer for each row. Such checkpoints can be averaged by their "
            "weights alone (hf-soups cook --method uniform), but not predict, be chosen by a score, or join a cascade."
        )


def _with_padding_token(model: PreTrainedModel, checkpoint: Checkpoint) -> PreTrainedModel:
    """The model, knowing its tokenizer's padding token: decoders' heads look for the last token before padding."""
    config = model.config.get_text_config()
    if model.main_input_name == "input_ids" and getattr(config, "pad_token_id", None) is None:
        from transformers import AutoTokenizer

        with suppress(Exception), quiet():  # without a tokenizer it says so when rows are read
            config.pad_token_id = AutoTokenizer.from_pretrained(
                str(checkpoint.processor_folder), **where()
            ).pad_token_id
    return model


def _check_layers(model: PreTrainedModel, info: dict[str, Any], at: str) -> None:
    """Refuse weights of more layers than config.json counts: transformers would leave some of them out."""
    own = {LAYER.sub(".#.", name) for name in model.state_dict()}
    further = [name for name in info["unexpected_keys"] if LAYER.search(name) and LAYER.sub(".#.", name) in own]
    if further:
        raise CheckpointError(
            f"{at}: its weights hold {named(further)}, which its config.json does not count. The weights and the "
            "config do not belong together."
        )


def _check_body(model: PreTrainedModel, info: dict[str, Any], head: set[str], at: str) -> None:
    for name, stored, wanted in sorted(info["mismatched_keys"]):
        if name not in head:
            raise CheckpointError(
                f"{at}: {name} has shape {tuple(stored)}, but its config.json asks for {tuple(wanted)}. "
                "The weights and the config do not belong together."
            )
    sizes = {name: p.numel() for name, p in model.named_parameters() if name not in head}
    missing = [name for name in info["missing_keys"] if name in sizes]
    if sum(sizes[name] for name in missing) > MISSING_BODY * sum(sizes.values()):
        raise CheckpointError(
            f"{at}: most weights of {type(model).__name__} are missing, among them {named(missing)}. "
            "The names of the checkpoint's tensors do not fit its config.json."
        )


def named(names: Any, most: int = 4) -> str:
    """A short list of names for an error."""
    ordered = sorted(names)
    return ", ".join(ordered[:most]) + (f" and {len(ordered) - most} more" if len(ordered) > most else "")


def where(revision: str | None = None, subfolder: str | None = None) -> dict[str, Any]:
    """What from_pretrained calls the place inside a repo; code in it is never run."""
    return {"revision": revision or "main", "subfolder": subfolder or "", "trust_remote_code": False}


def options(*, dtype: torch.dtype = torch.float32, attention: str | None = None) -> dict[str, Any]:
    """What from_pretrained calls the precision and the attention."""
    return {"dtype": dtype, **({} if attention is None else {"attn_implementation": attention})}


@contextmanager
def readable(source: str | Path, subfolder: str | None = None, file: str = "") -> Iterator[None]:
    """Turn what transformers raises for an unusable checkpoint into one clear error; `file` is what is read of it.

    What transformers logs meanwhile is silenced.
    """
    at = place(source, subfolder=subfolder)
    if not Path(source).is_dir():
        check_token()
    elif file:
        at = f"{at}/{file}"
    try:
        with quiet():
            yield
    except HfSoupsError:
        raise
    except Exception as error:  # of a damaged file, nearly anything
        raise CheckpointError(
            f"{at}: cannot be loaded ({_first_lines(error)}). Expected a folder or Hub repo with config.json, "
            "safetensors weights and a tokenizer or image processor."
        ) from error


def _first_lines(error: Exception) -> str:
    """What an error says, in one line; some of transformers' name the cause in their second one."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    kind = type(error).__name__
    if not lines:
        return kind
    said = " ".join(lines[: 2 if lines[0].endswith(":") else 1])[:300]
    return said if isinstance(error, OSError | ValueError | RuntimeError | ImportError) else f"{kind}: {said}"


@contextmanager
def answering(model: Any, values: torch.Tensor) -> Iterator[None]:
    """Turn what a model raises for rows that it cannot read into one clear error that names it.

    On a GPU such errors come later than their cause, and are left as they are.
    """
    try:
        yield
    except Exception as error:  # models raise nearly anything: index, shape, type, attribute
        if isinstance(error, HfSoupsError) or values.is_cuda or is_short_of_memory(error):
            raise
        raise CheckpointError(
            f"{named_model(model)}: it cannot read rows of shape {tuple(values.shape)} ({_first_lines(error)}). Its "
            "config.json, and its tokenizer or image processor, do not belong to its weights. Get it again."
        ) from error


class NotAnswered(InputError):
    """One of several models cannot be loaded or asked; the others are."""


@contextmanager
def one_of_several(name: str) -> Iterator[None]:
    """Turn whatever is wrong with one of several models into `NotAnswered`, which names it, so that the others go on.

    What concerns them all goes through: rows that cannot be read, a full disk, too little memory.
    """
    try:
        yield
    except DataError:
        raise
    except InputError as error:
        raise NotAnswered(str(error)) from error
    except HfSoupsError:
        raise
    except Exception as error:  # of a file that holds what nobody thought of, nearly anything
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or limit_reached(error) or is_short_of_memory(error):
            raise
        raise NotAnswered(f"{name}: it cannot be loaded or asked ({_first_lines(error)}).") from error


@contextmanager
def fitting(checkpoint: Checkpoint) -> Iterator[None]:
    """`readable`, for a model that is made for a checkpoint's weights: none that is far larger is made."""
    with readable(checkpoint.source, checkpoint.subfolder), within_weights(checkpoint.tensors, str(checkpoint)):
        yield


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the load report and its progress bar: what it would say is checked here instead."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run under a seed of the CPU generator and leave its state as it was; accelerators' generators are not touched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        yield
