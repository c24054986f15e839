"""`compare`: what engines lose in accuracy and gain in speed against a first one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edgeattn.arrays import LABEL_KEY
from edgeattn.artifacts import Manifest, Parent, check_writable, sha256_of_file
from edgeattn.bundle.load import engine_target
from edgeattn.engine.base import Engine
from edgeattn.engine.batches import BATCH_SIZE
from edgeattn.errors import ArtifactError, DataError, SpecError
from edgeattn.graph.compare import compare_outputs
from edgeattn.profiling.comparison.accuracy import Progress, SharedInputs, outputs_of, top1
from edgeattn.profiling.comparison.differences import differences
from edgeattn.profiling.comparison.gates import judge
from edgeattn.profiling.comparison.modules import align_modules
from edgeattn.profiling.comparison.ratio import Ratio, percentile_ratio
from edgeattn.profiling.comparison.result import (
    ACCURACY_FIGURES,
    FIGURES,
    Comparison,
    Comparisons,
)
from edgeattn.profiling.comparison.sides import Side, letters, side_of_report
from edgeattn.profiling.comparison.timed import LoadedSide, timed_sides, with_layers
from edgeattn.profiling.conditions import RELATIVE, Condition
from edgeattn.profiling.measure import DURATION_S, ITERATIONS, WARM_UP_MS
from edgeattn.profiling.modes import DEVICE, HOST, MODES, choose_mode, has_device
from edgeattn.profiling.page.comparison import render_comparison
from edgeattn.profiling.page.render import require_jinja2
from edgeattn.profiling.profile import opened
from edgeattn.profiling.report import LatencyReport, read_report

if TYPE_CHECKING:
    from edgeattn.engine.tensorrt.load import TensorRtRunOptions

__all__ = ["FIGURES", "Comparison", "Comparisons", "compare", "compare_many"]

Accuracy = dict[str, Any]  # what a comparison has of it, by its fields
Source = Engine | LatencyReport | Path | str


def compare(
    a: Source,
    b: Source,
    inputs: Mapping[str, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
    *,
    fail_if: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    latency: bool = True,
    layers: bool = False,
    any_mode: bool = False,
    board: bool = True,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    html: Path | str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparison:
    """Compare a candidate with a reference.

    Engines run the same samples, and their latencies are measured in turns, in one run. Of a
    report, the latency is that of its queries; an engine beside a report is measured in the mode of
    that.

    Args:
        a: The reference: an engine, the file of one, an ONNX graph, or a report or its file
            `NAME.profile.json`.
        b: The candidate. Engines have the same input and output names; a single input or output
            may be called differently.
        inputs: Arrays by the first engine's input names, any number of samples along axis 0;
            random ones of one batch if not given. An array `label` that is no input holds the
            labels.
        labels: `[samples]` class indices, for top-1.
        fail_if: Conditions `NAME OP NUMBER` on `Comparison.figures`, such as `sqnr_db < 30`,
            `top1_drop > 0.3` or `p99_ms > 5`, and relative ones such as `p99 > +5%`; see
            `Comparison.gates`.
        batch_size: Samples per batch where an engine leaves that free.
        latency: Compare latencies too: of engines, of the first batch.
        layers: Measure where the time of the engines goes, too. Reports with layers are compared
            by module in any case.
        any_mode: Compare latencies of reports of different modes, too.
        board: Watch clocks and temperatures while engines are timed, from a process of its own.
        iterations: Least number of timed queries of each engine.
        duration_s: Least time to time each engine.
        warm_up_ms: Time to run each without timing before.
        html: Page to write, `NAME.html`; it needs jinja2.
        shapes: Shapes of random inputs, for those with free dimensions; by default those of the
            reports, else those that an engine was tuned for.
        threads: Threads to load files of CPU engines with.
        tensorrt: How to load files of TensorRT engines.
        seed: Seed of the random inputs.
        progress: Called with steps done, steps in all (if known), and the step at hand.

    Raises:
        ArtifactError: If a file is missing or neither engine nor report, or the page cannot be
            written.
        DataError: If the inputs do not fit an engine, the labels do not fit, or the modes of
            reports differ.
        EngineError: If an engine fails, or two cannot be compared.
        MissingDependencyError: If a page is asked for without jinja2.
        SpecError: If a condition is malformed or cannot be judged.
    """
    return compare_many(
        a,
        [b],
        inputs,
        labels,
        fail_if=fail_if,
        batch_size=batch_size,
        latency=latency,
        layers=layers,
        any_mode=any_mode,
        board=board,
        iterations=iterations,
        duration_s=duration_s,
        warm_up_ms=warm_up_ms,
        html=html,
        shapes=shapes,
        threads=threads,
        tensorrt=tensorrt,
        seed=seed,
        progress=progress,
    ).pairs[0]


def compare_many(
    reference: Source,
    candidates: Sequence[Source],
    inputs: Mapping[str, np.ndarray] | None = None,
    labels: np.ndarray | None = None,
    *,
    fail_if: Sequence[str] = (),
    batch_size: int = BATCH_SIZE,
    latency: bool = True,
    layers: bool = False,
    any_mode: bool = False,
    board: bool = True,
    iterations: int = ITERATIONS,
    duration_s: float = DURATION_S,
    warm_up_ms: float = WARM_UP_MS,
    html: Path | str | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int | None = None,
    tensorrt: TensorRtRunOptions | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Comparisons:
    """Compare any number of candidates with one reference.

    There is at least one candidate, and every engine has the input and output names of the first
    one. All else is as `compare` takes it; conditions are judged for each candidate.

    Raises:
        DataError: If there is no candidate.
        EdgeAttnError: As `compare` does.
    """
    conditions = [Condition.parse(text, FIGURES) for text in fail_if]
    if not candidates:
        raise DataError("there is nothing to compare with; expected at least one candidate")
    if html is not None:
        _check_page(Path(html), (reference, *candidates))
    sources = dict(zip(letters(1 + len(candidates)), (reference, *candidates), strict=True))
    sides = dict(_reports(sources))
    if not latency:
        sides = {letter: replace(side, latency=None, times=None) for letter, side in sides.items()}
    engines = {
        letter: source
        for letter, source in sources.items()
        if letter not in sides and not isinstance(source, LatencyReport)
    }
    if not engines and (inputs is not None or labels is not None):
        raise DataError(
            "inputs were given, and all that is compared are reports", "leave the inputs out"
        )
    _check_conditions(conditions, list(sides))
    loop = {"iterations": iterations, "duration_s": duration_s, "warm_up_ms": warm_up_ms}
    options: dict[str, Any] = {"fail_if": list(fail_if), "batch_size": batch_size}
    if engines and inputs is None:
        options["random_inputs_seed"] = seed
    if engines and latency:
        options |= loop
    mode = _shared_mode(list(sides.values()), bool(engines), any_mode) if latency else None
    accuracy: dict[str, Accuracy] = {}
    with _loaded(engines, mode, threads, tensorrt) as loaded:
        if loaded:
            timed = next((side.inputs for side in sides.values()), {})
            inputs, labels = _without_labels(inputs, labels, loaded[0].engine)
            shared = SharedInputs([s.engine for s in loaded], inputs, shapes or {}, timed, seed)
            accuracy = _accuracy(loaded, shared, labels, batch_size, progress)
            arrays = shared.common_batches(batch_size) if latency or layers else []
            _step(progress, "measure")
            if latency:
                made = timed_sides(loaded, arrays, loop, board)
            else:
                made = [side.untimed() for side in loaded]
            if layers:
                _step(progress, "layers")
                made = [with_layers(*each) for each in zip(made, loaded, arrays, strict=True)]
            sides |= {side.letter: side for side in made}
    reference_side, *others = (sides[letter] for letter in sources)
    found = Comparisons(
        tuple(
            _pair(reference_side, side, accuracy.get(side.letter), options, conditions)
            for side in others
        )
    )
    if html is not None:
        render_comparison(found, Path(html))
    return found


def _check_page(page: Path, sources: Sequence[Source]) -> None:
    """Refuse, before anything is measured, a page that could not be written."""
    files = [Path(source) for source in sources if isinstance(source, Path | str)]
    if page.absolute() in [file.absolute() for file in files]:
        raise ArtifactError(f"{page} is to be compared and written", "choose another name")
    check_writable(page)
    require_jinja2()


def _reports(sources: Mapping[str, Source]) -> Iterator[tuple[str, Side]]:
    """Read the sides that are reports: those in memory, and files called `.json`."""
    for letter, source in sources.items():
        if isinstance(source, LatencyReport):
            measured = next((p.file for p in source.manifest.parents.values()), "a report")
            yield letter, side_of_report(source, letter, measured, None)
        elif isinstance(source, Path | str) and Path(source).suffix.lower() == ".json":
            path = Path(source)
            report = read_report(path)
            file = Parent(path.name, sha256_of_file(path))
            yield letter, side_of_report(report, letter, path.name, file)


def _check_conditions(conditions: Sequence[Condition], reports: Sequence[str]) -> None:
    """Refuse, before anything is measured, conditions on the accuracy of reports.

    Raises:
        SpecError: If there is one.
    """
    for condition in conditions:
        if condition.name in ACCURACY_FIGURES and reports:
            verb = "is a report" if len(reports) == 1 else "are reports"
            raise SpecError(
                f"the condition {condition} cannot be judged: {', '.join(reports)} {verb}, and "
                "accuracy takes engines",
                "give the engines in place of the reports, or leave the condition out",
            )


def _shared_mode(reports: Sequence[Side], has_engines: bool, any_mode: bool) -> str | None:
    """Find the mode to measure engines in: that of the reports beside them.

    Returns:
        `None` for the plain mode of each engine.

    Raises:
        DataError: If the modes of the reports differ, or engines cannot be measured in theirs.
    """
    plain = (HOST.name, DEVICE.name)
    names = [None if side.mode_name in plain else side.mode_name for side in reports]
    shared = names[0] if names else None
    can_share = set(names) <= {shared} and (not has_engines or shared in (None, *MODES))
    if can_share or any_mode:
        return shared if can_share else None
    found = ", ".join(f"{side.letter} {side.mode_name}" for side in reports)
    raise DataError(
        f"the latencies hold different things: the modes of the reports are {found}",
        "profile all in one mode; or compare all the same with --any-mode (any_mode=True)",
    )


@contextlib.contextmanager
def _loaded(
    engines: Mapping[str, Engine | Path | str],
    mode: str | None,
    threads: int | None,
    tensorrt: TensorRtRunOptions | None,
) -> Iterator[list[LoadedSide]]:
    """Load all engines for the length of a block, as their mode measures them.

    Each gets the options of its kind, where the kinds differ; else all, to be judged.
    """
    targets = {
        letter: engine_target(Path(source))
        for letter, source in engines.items()
        if isinstance(source, Path | str)
    }
    is_mixed = len(set(targets.values())) > 1
    with contextlib.ExitStack() as stack:
        loaded = []
        for letter, source in engines.items():
            if letter not in targets:
                assert not isinstance(source, Path | str)
                chosen = choose_mode(mode, source.manifest.target)
                loaded.append(LoadedSide(letter, "", source, chosen))
                continue
            target = targets[letter]
            chosen = choose_mode(mode, target)
            own_threads = None if is_mixed and target == "tensorrt" else threads
            own_tensorrt = None if is_mixed and target != "tensorrt" else tensorrt
            if has_device(target):
                own_tensorrt = chosen.load_options(own_tensorrt)
            engine = stack.enter_context(opened(source, own_threads, own_tensorrt))
            loaded.append(LoadedSide(letter, Path(str(source)).name, engine, chosen))
        yield loaded


def _without_labels(
    inputs: Mapping[str, np.ndarray] | None, labels: np.ndarray | None, engine: Engine
) -> tuple[Mapping[str, np.ndarray] | None, np.ndarray | None]:
    """Take the labels out of the inputs, if they are there and no input of the engine."""
    is_input = LABEL_KEY in {spec.name for spec in engine.inputs}
    if inputs is None or labels is not None or LABEL_KEY not in inputs or is_input:
        return inputs, labels
    return {name: a for name, a in inputs.items() if name != LABEL_KEY}, inputs[LABEL_KEY]


def _accuracy(
    loaded: Sequence[LoadedSide],
    inputs: SharedInputs,
    labels: np.ndarray | None,
    batch_size: int,
    progress: Progress | None,
) -> dict[str, Accuracy]:
    """Hold the outputs of engines against those of the reference; nothing if that is a report."""
    if loaded[0].letter != "A" or len(loaded) < 2:
        return {}
    outputs = outputs_of([side.engine for side in loaded], inputs, batch_size, progress)
    shares = [None if labels is None else top1(each, labels) for each in outputs]
    return {
        side.letter: {
            "num_samples": len(next(iter(outputs[0].values()))),
            "outputs": compare_outputs(outputs[0], own),
            "top1_a": shares[0],
            "top1_b": share,
        }
        for side, own, share in zip(loaded[1:], outputs[1:], shares[1:], strict=True)
    }


def _pair(
    a: Side,
    b: Side,
    accuracy: Accuracy | None,
    options: Mapping[str, Any],
    conditions: Sequence[Condition],
) -> Comparison:
    parents = {
        f"{which}_{role}": parent
        for which, side in (("a", a), ("b", b))
        for role, parent in side.parents.items()
    }
    comparison = Comparison(
        manifest=Manifest("report", parents, options=dict(options)),
        a=a,
        b=b,
        ratios=dict(_ratios(a, b)),
        modules=align_modules(a.layers, b.layers) if a.layers and b.layers else (),
        differences=tuple(differences(a, b)),
        **(accuracy or {}),
    )
    figures = comparison.figures()
    gates = tuple(judge(condition, figures, comparison.ratios) for condition in conditions)
    return replace(comparison, gates=gates)


def _ratios(a: Side, b: Side) -> Iterator[tuple[str, Ratio]]:
    """Divide the percentiles that both sides have."""
    if a.latency is None or b.latency is None:
        return
    is_one_run = not (a.is_report or b.is_report)
    for name, percent in RELATIVE.items():
        ours, theirs = (getattr(side.latency, f"{name}_ms") for side in (a, b))
        if not ours or theirs is None:
            continue
        value = theirs / ours
        if a.times is None or b.times is None:
            yield name, Ratio(value, None, "the reports hold no single queries")
        else:
            yield name, percentile_ratio(a.times, b.times, percent, value, is_one_run=is_one_run)


def _step(progress: Progress | None, what: str) -> None:
    if progress is not None:
        progress(0, None, what)
