"""A callback of transformers' Trainer: a running average of the weights, evaluated as it grows, saved as a soup."""

from __future__ import annotations

import contextlib
import math
import shutil
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file
from transformers import TrainerCallback
from transformers.trainer_utils import EvalPrediction

from hf_soups.checkpoint import Checkpoint
from hf_soups.errors import DataWarning, InputError
from hf_soups.files.writing import refuse_existing, write_json, written_whole
from hf_soups.soups.methods.trajectory import STEP
from hf_soups.soups.soup import versions
from hf_soups.soups.soup_record import FORMAT, SOUP_FILE

Weights = dict[str, torch.Tensor]
AVERAGE_FILE = "soup_average.safetensors"  # in a checkpoint's folder: where a resumed training goes on


class SoupCallback(TrainerCallback):
    """Averages the weights while transformers' Trainer trains, evaluates the average, and saves it as a soup.

    The training itself does not change: the same weights come out, bit for bit, with it and without. Each evaluation
    also gives `eval_soup_loss` and, with `compute_metrics`, `eval_soup_<name>`, so that `metric_for_best_model` may
    name them. At the end the average is an ordinary model folder with soup.json.

    Args:
        out: folder of the soup; default: soup/ in the Trainer's output folder.
        average: "ema", a moving average over all steps, or "lawa", the mean of the last few snapshots.
        decay: of the moving average, below 1; after n updates at most (1 + n) / (10 + n), so that the first weights
            are soon forgotten.
        last: snapshots that are averaged by "lawa".
        every: steps from one update to the next; default: 1 for "ema", an epoch for "lawa".
        first: step of the first update; later ones leave the warm-up out.
        keep: `checkpoint-<step>` folders that stay, the best by `metric_for_best_model` (default: the loss) and always
            the last one, which a resumed training needs; default: all that the Trainer leaves.
        compute_metrics: as the Trainer takes it; applied to what the average answers.
        overwrite: replace a soup in `out`.
    Raises:
        InputError: if a value makes no sense. When training begins: if the weights are adapters (average their
            products afterwards: hf-soups cook OUTPUT_DIR), or are cut into pieces by FSDP or DeepSpeed's stage 3.
    Source: Sanyal et al. 2023, arXiv:2306.03241 (LAWA); Polyak and Juditsky 1992.
    Example:
        trainer = Trainer(model, args, train_dataset=rows, callbacks=[SoupCallback("soup", decay=0.99)])
    """

    def __init__(
        self,
        out: str | Path | None = None,
        *,
        average: Literal["ema", "lawa"] = "ema",
        decay: float = 0.999,
        last: int = 5,
        every: int | None = None,
        first: int = 0,
        keep: int | None = None,
        compute_metrics: Callable[[EvalPrediction], Mapping[str, float]] | None = None,
        overwrite: bool = False,
    ) -> None:
        if average not in ("ema", "lawa"):
            raise InputError(f"average is {average!r}; expected 'ema' or 'lawa'.")
        if not 0 <= decay < 1:
            raise InputError(f"decay is {decay}; expected 0 (the last weights alone) or more, and below 1.")
        if last < 1 or first < 0 or (every is not None and every < 1) or (keep is not None and keep < 1):
            raise InputError(
                f"last is {last}, first {first}, every {every}, keep {keep}; expected whole numbers from 1."
            )
        self.out, self.kind, self.decay, self.last = out, average, decay, last
        self.every = 1 if every is None and average == "ema" else every
        self.first, self.keep, self.compute_metrics, self.overwrite = first, keep, compute_metrics, overwrite
        self.average: Weights | None = None
        self.updates = 0
        self.evaluations: list[dict[str, Any]] = []
        self._snapshots: deque[Weights] = deque(maxlen=last)

    # Events of the Trainer.

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Check that there will be a soup, and go on with the average of a training that is resumed."""
        _refuse_parts(args, model)
        if state.is_world_process_zero:
            refuse_existing(self._folder(args), overwrite=self.overwrite, marker=SOUP_FILE)
        self.average, self.updates, self.evaluations = None, 0, []
        self._snapshots.clear()
        kept = Path(args.output_dir) / f"checkpoint-{state.global_step}" / AVERAGE_FILE
        if state.global_step and kept.is_file():
            held = load_file(kept)
            self.updates = int(held.pop("updates"))
            self.average = {name: held[name].to(value.device) for name, value in _floats(model).items()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Take the weights in."""
        since = state.global_step - self.first
        if self.every is not None and since >= 0 and since % self.every == 0:
            self._take(model)

    def on_epoch_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Take a snapshot, where snapshots are taken by epoch."""
        if self.every is None and state.global_step >= self.first:
            self._take(model)

    def on_evaluate(
        self, args: Any, state: Any, control: Any, metrics: Any = None, model: Any = None, eval_dataloader: Any = None,
        **kwargs: Any,
    ) -> None:  # fmt: skip
        """Evaluate the average beside the current weights; what it scores joins the metrics and the log."""
        if self.average is None or eval_dataloader is None:
            return
        if args.world_size > 1:
            message = "SoupCallback: with several processes the average is saved, but not evaluated."
            warnings.warn(message, DataWarning, stacklevel=2)
            return
        with self._in_place(model):
            scores = self._scores(model, eval_dataloader, args)
        state.log_history.append({"epoch": state.epoch, **scores, "step": state.global_step})
        shown = {k: v for k, v in (metrics or {}).items() if isinstance(v, int | float) and k.startswith("eval_")}
        self.evaluations.append({"step": state.global_step, **shown, **scores})
        if metrics is not None:
            metrics.update(scores)

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        """Keep the average beside the checkpoint, and remove checkpoints that are not among the best."""
        if not state.is_world_process_zero:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        if self.kind == "ema" and self.average is not None and folder.is_dir():
            held = {name: value.detach().contiguous().clone() for name, value in self.average.items()}
            save_file({**held, "updates": torch.tensor(self.updates)}, folder / AVERAGE_FILE)
        if self.keep is not None:
            _keep_best(Path(args.output_dir), state, args, self.keep)

    def on_train_end(
        self, args: Any, state: Any, control: Any, model: Any = None, processing_class: Any = None, **kwargs: Any
    ) -> None:
        """Write the soup's folder."""
        if not state.is_world_process_zero:
            return
        if self.average is None:
            message = f"SoupCallback: no weights were averaged in {state.global_step} steps, so there is no soup."
            warnings.warn(message, DataWarning, stacklevel=2)
            return
        inner = _unwrapped(model)
        stored = {name: value.detach().cpu() for name, value in inner.state_dict().items()}
        stored |= {name: value.to("cpu", stored[name].dtype) for name, value in self.average.items()}
        with written_whole(self._folder(args), overwrite=self.overwrite, marker=SOUP_FILE) as staged:
            inner.save_pretrained(staged, state_dict=stored)
            if processing_class is not None:
                processing_class.save_pretrained(staged)
            write_json(staged / SOUP_FILE, {**self._record(state), "weights": Checkpoint(str(staged)).digest()})

    # The average.

    def _folder(self, args: Any) -> Path:
        return Path(args.output_dir) / "soup" if self.out is None else Path(self.out)

    @torch.no_grad()
    def _take(self, model: Any) -> None:
        """Let the current weights join the average."""
        now = _floats(model)
        if self.kind == "lawa":
            self._snapshots.append(
                {name: value.detach().to("cpu", torch.float32, copy=True) for name, value in now.items()}
            )
            n = len(self._snapshots)
            self.average = {name: sum(s[name] for s in self._snapshots) / n for name in now}  # type: ignore[misc]
        elif self.average is None:
            self.average = {name: value.detach().to(torch.float32, copy=True) for name, value in now.items()}
        else:
            decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
            for name, value in now.items():
                self.average[name].lerp_(value.detach().to(torch.float32), 1 - decay)
        self.updates += 1

    @contextlib.contextmanager
    def _in_place(self, model: Any) -> Iterator[None]:
        """The average in the model for the length of the block; its own weights afterwards, bit for bit."""
        assert self.average is not None
        now = _floats(model)
        own = {name: value.detach().clone() for name, value in now.items()}
        training = model.training
        try:
            with torch.no_grad():
                for name, value in now.items():
                    value.copy_(self.average[name])
            model.eval()
            yield
        finally:
            with torch.no_grad():
                for name, value in now.items():
                    value.copy_(own[name])
            model.train(training)

    def _scores(self, model: Any, batches: Any, args: Any) -> dict[str, float]:
        lost, rows, logits, labels = 0.0, 0, [], []
        with torch.no_grad(), torch.random.fork_rng(), _precision(args, model):  # a loader draws a number to begin
            for batch in batches:
                on_device = {k: v.to(model.device) if hasattr(v, "to") else v for k, v in batch.items()}
                found = model(**on_device)
                target = on_device.get("labels")
                size = len(next(iter(on_device.values()))) if target is None else len(target)
                lost, rows = lost + (math.nan if target is None else float(found.loss)) * size, rows + size
                if self.compute_metrics is not None and target is not None:
                    logits.append(found.logits.float().cpu())
                    labels.append(target.cpu())
        scores = {} if math.isnan(lost) or not rows else {"eval_soup_loss": lost / rows}
        if self.compute_metrics is None or not logits:
            return scores
        computed = self.compute_metrics(EvalPrediction(torch.cat(logits).numpy(), torch.cat(labels).numpy()))
        return {
            **scores,
            **{f"eval_soup_{name.removeprefix('eval_')}": float(value) for name, value in computed.items()},
        }

    def _record(self, state: Any) -> dict[str, Any]:
        """What soup.json holds: the average has no ingredients on disk."""
        how = {"decay": self.decay} if self.kind == "ema" else {"last": min(self.last, self.updates)}
        about = {"first": self.first, "every": self.every, "updates": self.updates, "steps": state.global_step}
        return {
            "format": FORMAT, "method": f"trainer-{self.kind}", "ingredients": [], "steps": [], "scores": {},
            "versions": versions(), "trainer": {**how, **about, "evaluations": self.evaluations},
        }  # fmt: skip


def _unwrapped(model: Any) -> Any:
    return getattr(model, "_orig_mod", model)  # torch.compile's wrapper


def _floats(model: Any) -> Weights:
    """Everything that is averaged, by its name, each tied tensor once; BatchNorm's statistics too, integers not."""
    return {
        name: value for name, value in (*_unwrapped(model).named_parameters(), *_unwrapped(model).named_buffers())
        if value.is_floating_point()
    }  # fmt: skip


def _refuse_parts(args: Any, model: Any) -> None:
    """Weights that are no whole model here cannot be averaged here."""
    if hasattr(_unwrapped(model), "peft_config"):
        raise InputError(
            "SoupCallback averages whole models; the mean of adapters' A and B is not the mean of what they add. Leave "
            f"it out, and average the checkpoints afterwards: hf-soups cook {args.output_dir} --method run-ema."
        )
    stage = getattr(getattr(args, "hf_deepspeed_config", None), "is_zero3", lambda: False)
    if getattr(args, "fsdp", None) or stage():
        raise InputError(
            "SoupCallback needs whole weights in each process; FSDP and DeepSpeed's stage 3 cut them into pieces. "
            f"Leave it out, and average the checkpoints afterwards: hf-soups cook {args.output_dir} --method run-ema."
        )


def _precision(args: Any, model: Any) -> contextlib.AbstractContextManager[Any]:
    """The precision that the Trainer evaluates in."""
    dtype = torch.bfloat16 if args.bf16 else torch.float16 if args.fp16 else None
    return contextlib.nullcontext() if dtype is None else torch.autocast(model.device.type, dtype=dtype)


def _keep_best(root: Path, state: Any, args: Any, keep: int) -> None:
    """Remove checkpoints other than the best, the last, and the one that the Trainer will load at its end."""
    metric = args.metric_for_best_model or "loss"
    metric = metric if metric.startswith("eval_") else f"eval_{metric}"
    sign = 1 if args.greater_is_better or (args.greater_is_better is None and not metric.endswith("loss")) else -1
    known = {entry["step"]: sign * entry[metric] for entry in state.log_history if metric in entry and "step" in entry}
    steps = {int(found[1]): path for path in root.iterdir() if path.is_dir() and (found := STEP.fullmatch(path.name))}
    ranked = sorted(steps, key=lambda step: (known.get(step, -math.inf), step), reverse=True)
    wanted = {*ranked[:keep], state.global_step}
    best = None if state.best_model_checkpoint is None else Path(state.best_model_checkpoint).resolve()
    for step, path in steps.items():
        if step not in wanted and path.resolve() != best:
            shutil.rmtree(path)
