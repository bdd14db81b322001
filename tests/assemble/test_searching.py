from __future__ import annotations

import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

import damoyolo as dy
from damoyolo.assemble import profiling, race, searching
from damoyolo.assemble.searching import SearchResult, search_backbone
from damoyolo.config import SearchConfig
from damoyolo.errors import UserError
from damoyolo.nn.detector import fuse
from damoyolo.search import evolve
from damoyolo.search.neck import DetectorMadNas, necks_like
from damoyolo.search.space import SPACES, genome_of
from damoyolo.spec import ModelSpec
from damoyolo.zoo import read_spec
from fake_device import FakeDevice


@pytest.fixture(autouse=True)
def _short_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evolve, "ROUND", 100)


def config(output: Path, **settings: Any) -> SearchConfig:
    settings = {"candidates": 300, "population": 64, "num_classes": 3, **settings}
    return SearchConfig(output=output, **settings)


def searched(output: Path, resume: bool = False, **settings: Any) -> SearchResult:
    return search_backbone(config(output, **settings), resume, say=lambda line: None)


def write_table(path: Path) -> Path:
    """A device on which time goes with the work, in the table's format."""
    lines = [
        f"{{Regular,1,{int(ratio * cout)},{side},{side},{cout},{kernel},{stride},{fused}}} "
        f"{0.001 + 1e-8 * ratio * (cout * kernel * side / stride) ** 2:.6f}"
        for ratio in (0.25, 0.5, 1, 2, 4)
        for cout in (8, 64, 1024)
        for side in (4, 32, 96)
        for kernel in (1, 3)
        for stride in (1, 2)
        for fused in (0, 1)
    ]
    path.write_text("\n".join(lines))
    return path


@pytest.mark.parametrize("space", ["k1kx", "csp", "mob"])
def test_what_is_found_can_be_built_and_costs_what_was_said(space: str, tmp_path: Path) -> None:
    result = searched(tmp_path, space=space, image_size=96, max_layers=31, max_params_m=20.0)
    (found,) = result.found
    assert ModelSpec.read(found.file) == found.spec
    detector = dy.build(str(found.file), num_classes=3)
    assert sum(each.numel() for each in fuse(detector).parameters()) == found.costs.params <= 20e6
    assert detector(torch.zeros(1, 3, 96, 96)).class_logits.shape[2] == 3
    assert (found.costs.layers <= 31, result.tried, result.stopped) == (True, 300, False)


def test_neck_and_head_are_those_of_the_size_that_is_named(tmp_path: Path) -> None:
    (found,) = searched(tmp_path, like="S", max_layers=19, candidates=50).found
    like = read_spec("S")
    assert (found.spec.neck, found.spec.head) == (like.neck, like.head)
    assert (found.spec.image_size, found.spec.published) == (like.image_size, None)


def test_several_budgets_hold_together_and_the_reasons_are_counted(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.txt")
    budgets = {"max_latency_ms": 3.0, "max_gflops": 0.5, "max_params_m": 9.0, "max_layers": 21}
    result = searched(tmp_path / "run", image_size=96, latency_table=table, **budgets)
    costs = result.found[0].costs
    assert 0 < costs.latency_ms <= 3.0
    assert (costs.flops <= 0.5e9, costs.params <= 9e6, costs.layers <= 21) == (True, True, True)
    written = json.loads((tmp_path / "run" / "search.json").read_text())
    assert sum(written["fates"].values()) == 300
    assert written["found"][0]["score"] == result.found[0].score
    assert result.remark.startswith("the latency table errs by more than ")


@pytest.mark.parametrize(
    ("budget", "least"),
    [
        (
            {"max_gflops": 0.01},
            "max_gflops: 0.01 cannot be reached, the least in space k1kx counting the detector",
        ),
        ({"max_params_m": 1.0}, "max_params_m: 1 cannot be reached"),
        ({"max_layers": 5}, r"max_layers: 5 cannot be reached, .* is 11;"),
    ],
)
def test_an_impossible_budget_names_the_nearest_reachable(
    budget: dict[str, Any], least: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=least) as told:
        searched(tmp_path / "a", image_size=96, **budget)
    (name,) = budget
    nearest = float(str(told.value).split(" px is ")[1].split(";")[0])
    again = {name: type(budget[name])(nearest)}
    assert searched(tmp_path / "b", image_size=96, candidates=10, **again).found


def test_a_table_that_lacks_the_space_s_operators_is_told(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.txt")
    with pytest.raises(UserError, match=r"cannot price this space: it has no .*depthwise"):
        searched(tmp_path / "run", space="mob", image_size=96, latency_table=table, max_latency_ms=1.0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "nothing limits the search"),
        ({"max_latency_ms": 1.0}, "device: a latency needs a device"),
        ({"front": "latency"}, "device: a latency needs a device"),
        ({"max_layers": 19, "sizes": 3}, "chosen from a front"),
        ({"max_layers": 40, "space": "mob", "reference": True}, "no depthwise blocks"),
        ({"max_layers": 19, "max_widths": (8, 8, 8)}, "lower --min-widths or raise --max-widths"),
        ({"max_layers": 19, "min_widths": (256, 64, 64)}, "no multiples of 8"),
        ({"max_layers": 19, "like": "X"}, "no model size"),
        ({"max_layers": 19, "search_neck": True, "score": "padded"}, "search_neck: goes with budgets"),
        ({"max_layers": 19, "search_neck": True, "reference": True}, "reference: the original knows neither"),
        ({"max_layers": 19, "activation": "silu", "reference": True}, "nor activations"),
        ({"max_gflops": 1.0, "image_sizes": (96, 128)}, "only DeepMAD's score sees resolution"),
        ({"max_layers": 19, "image_sizes": (96,), "score": "deepmad"}, "the largest would always win"),
        ({"max_gflops": 1.0, "image_sizes": ()}, "image_sizes: none is given"),
        ({"max_gflops": 1.0, "image_sizes": (96,), "image_size": 96}, "--image-size is given, too"),
        ({"max_layers": 19, "threads": 2}, "--threads and --precision are a device's"),
        ({"max_layers": 19, "device": "torch-cpu", "counting": "backbone"}, "measures whole detectors"),
    ],
)
def test_settings_that_do_not_go_together_are_told(
    settings: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        searched(tmp_path, **settings)
    assert not any(tmp_path.iterdir())


def test_a_front_gives_a_family_a_table_and_a_picture(tmp_path: Path) -> None:
    result = searched(tmp_path, image_size=96, front="gflops", sizes=2, max_layers=19)
    files = [found.file.name for found in result.found]
    assert files == ["found-1.yaml", "found-2.yaml"]
    assert result.found[0].costs.flops < result.found[1].costs.flops
    points = json.loads((tmp_path / "front.json").read_text())
    assert [point["flops"] for point in points] == sorted({point["flops"] for point in points})
    assert [point["score"] for point in points] == sorted({point["score"] for point in points})
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_a_family_has_as_many_sizes_as_the_front_can_give(tmp_path: Path) -> None:
    result = searched(tmp_path / "a", image_size=96, front="gflops", sizes=9, max_layers=19)
    assert len(result.found) == 9
    assert result.remark == ""
    result = searched(tmp_path / "b", image_size=96, front="gflops", sizes=500, max_layers=19)
    assert len(result.found) == len(result.front) < 500
    assert result.remark.startswith(f"the front has {len(result.front)} of the 500 sizes asked")


def test_an_interrupted_search_keeps_what_it_has_and_goes_on_to_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings: dict[str, Any] = {"image_size": 96, "max_gflops": 1.0, "candidates": 500}
    whole = searched(tmp_path / "whole", **settings)
    real = searching.evolve

    def interrupted(*arguments: Any) -> Any:
        for rounds, each in enumerate(real(*arguments)):
            yield each
            if rounds == 2:
                raise KeyboardInterrupt

    monkeypatch.setattr(searching, "SAVE_SECONDS", 0.0)
    monkeypatch.setattr(searching, "evolve", interrupted)
    stopped = searched(tmp_path / "part", **settings)
    assert (stopped.stopped, stopped.tried) == (True, 300)
    assert ModelSpec.read(stopped.found[0].file) == stopped.found[0].spec
    monkeypatch.setattr(searching, "evolve", real)
    resumed = search_backbone(SearchConfig(output=tmp_path / "part"), resume=True, say=lambda line: None)
    assert (resumed.tried, resumed.stopped) == (500, False)
    assert resumed.found[0].spec == whole.found[0].spec
    assert resumed.counts == whole.counts


def test_a_search_is_not_overwritten_and_not_resumed_with_other_settings(tmp_path: Path) -> None:
    searched(tmp_path, max_layers=19, candidates=10)
    with pytest.raises(UserError, match="holds a search; go on with --resume"):
        searched(tmp_path, max_layers=19, candidates=10)
    with pytest.raises(UserError, match="was made with max_layers 19, now it is 21"):
        searched(tmp_path, resume=True, max_layers=21, candidates=10)
    assert searched(tmp_path, resume=True, max_layers=19, candidates=40).tried == 40


def test_progress_tells_rate_best_score_and_why_candidates_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(searching, "SAY_SECONDS", 0.0)
    lines: list[str] = []
    search_backbone(config(tmp_path, max_layers=19, max_gflops=18.0), say=lines.append)
    assert len(lines) == 3
    assert lines[0].startswith("100 of 300 candidates, ")
    for part in ("/s, best score ", "seen before ", "too many FLOPs ", "kept "):
        assert part in lines[0]


def test_the_original_s_rules_can_be_followed(tmp_path: Path) -> None:
    pytest.importorskip("scipy")
    table = write_table(tmp_path / "table.txt")
    result = searched(
        tmp_path / "run",
        image_size=96,
        latency_table=table,
        max_latency_ms=2.0,
        max_layers=20,
        reference=True,
    )
    last = result.found[0].spec.structure.blocks[-1]
    assert (last.out, last.layers) == (384, 1)
    assert result.found[0].costs.latency_ms <= 2.0


def test_other_scores_can_be_asked_for(tmp_path: Path) -> None:
    results = {
        score: searched(
            tmp_path / score, image_size=96, max_layers=19, max_gflops=1.0, score=score, candidates=300
        )
        for score in ("madnas", "deepmad", "padded")
    }
    assert len({result.found[0].score for result in results.values()}) == 3


def test_a_search_that_never_began_is_not_gone_on_with(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="holds no search; start one without --resume"):
        search_backbone(SearchConfig(output=tmp_path / "none", candidates=10), resume=True)


def test_going_on_where_nothing_began_begins_and_says_so(tmp_path: Path) -> None:
    told: list[str] = []
    settings = config(tmp_path / "none", image_size=96, max_layers=19, max_gflops=1.0, candidates=50)
    assert search_backbone(settings, resume=True, say=told.append).found
    assert told[0] == f"nothing to go on from in {tmp_path / 'none'}: the search begins"


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeDevice:
    """What every device is in these tests, with an empty cache of profiles."""
    fake = FakeDevice()
    monkeypatch.setenv("DAMOYOLO_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(searching, "open_device", lambda *_: fake)
    monkeypatch.setattr(profiling, "STRUCTURES", 120)
    monkeypatch.setattr(profiling, "STEPS", 25)
    monkeypatch.setattr(profiling, "measure_table", partial(_coarsely, profiling.measure_table))
    return fake


def _coarsely(measure_table: Any, measure: Any, usual: Any, seconds: float, *rest: Any) -> Any:
    return measure_table(measure, usual, 0.0, *rest)


DEVICE: dict[str, Any] = {"device": "openvino-cpu", "image_size": 96, "candidates": 400}
SIZED: dict[str, Any] = {"score": "deepmad", "image_sizes": (128, 64, 96), "max_layers": 21}


def test_a_search_for_a_device_profiles_it_once_and_measures_the_best(
    device: FakeDevice, tmp_path: Path
) -> None:
    result = searched(tmp_path / "a", max_latency_ms=2.5, **DEVICE)
    assert [found.file.name for found in result.found] == [
        "found.yaml",
        *(f"found-{n}.yaml" for n in range(2, 6)),
    ]
    assert all(found.file.is_file() for found in result.found)
    times = [found.measured_ms for found in result.found]
    assert times == pytest.approx([found.costs.latency_ms for found in result.found], rel=0.05)
    assert times[0] <= 2.5
    kept = [found.score for found in result.found if found.measured_ms <= 2.5]
    assert result.found[0].score == max(kept)
    assert "whole detectors by" in result.remark
    written = json.loads((tmp_path / "a" / "search.json").read_text())["found"]
    assert [each["measured_ms"] for each in written] == times

    timed = len(device.timed)
    assert timed > 100
    searched(tmp_path / "b", max_latency_ms=3.0, **DEVICE)
    assert len(device.timed) == timed


def test_what_is_slower_than_predicted_is_searched_again_with_a_tighter_budget(
    device: FakeDevice, tmp_path: Path
) -> None:
    searched(tmp_path / "a", max_latency_ms=2.5, **DEVICE)
    device.factor *= 1.3  # it has become slower since
    result = searched(tmp_path / "b", max_latency_ms=2.5, **DEVICE)
    assert result.found[0].measured_ms <= 2.5
    assert result.found[0].costs.latency_ms < 2.5 / 1.2


def test_a_budget_that_is_not_kept_is_told(device: FakeDevice, tmp_path: Path) -> None:
    searched(tmp_path / "a", max_latency_ms=2.5, **DEVICE)
    device.fixed_ms = 30.0
    result = searched(tmp_path / "b", max_latency_ms=2.5, **DEVICE)
    assert not searching.keeps_budget(result)
    assert json.loads((tmp_path / "b" / "search.json").read_text())["keeps_budget"] is False


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"max_params_m": 0.001}, "max_params_m: 0.001 cannot be reached"),
        ({"min_widths": (512, 512, 512), "max_widths": (64, 64, 64)}, "raise --max-widths"),
        ({"search_neck": True, "max_params_m": 0.001}, "max_params_m: 0.001 cannot be reached"),
        (
            {**SIZED, "image_sizes": (96, 64), "image_size": None, "max_gflops": 0.001},
            "counting the detector at 64 px is ",
        ),
    ],
)
def test_what_needs_no_latency_is_told_before_the_device_is_measured(
    settings: dict[str, Any], message: str, device: FakeDevice, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        searched(tmp_path, **{**DEVICE, "max_latency_ms": 2.5, **settings})
    assert not device.timed
    assert not device.opens


def test_a_front_of_latencies_is_measured_in_its_order(device: FakeDevice, tmp_path: Path) -> None:
    result = searched(tmp_path, front="latency", sizes=2, **DEVICE)
    assert [found.file.name for found in result.found] == ["found-1.yaml", "found-2.yaml"]
    assert result.found[0].measured_ms < result.found[1].measured_ms


def test_a_profile_of_something_else_is_refused(device: FakeDevice, tmp_path: Path) -> None:
    searched(tmp_path / "a", max_latency_ms=3.0, **DEVICE)
    (profile,) = (tmp_path / "home").rglob("*.json")
    with pytest.raises(UserError, match="was measured for image_size 96, not 128; run damoyolo profile"):
        searched(tmp_path / "b", image_size=128, max_latency_ms=3.0, latency_table=profile)


def test_two_searches_do_not_work_in_one_folder(tmp_path: Path) -> None:
    holder = (
        "import sys, time; from pathlib import Path; from damoyolo.files import locked\n"
        "with locked(Path(sys.argv[1])): print('locked', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", holder, str(tmp_path)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(UserError, match=f"worked in by another process .number {process.pid}."):
            searched(tmp_path, max_layers=19)
        process.kill()


def only_some_necks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every eighth, the one that the others are like among them: each takes a second."""
    for module in (race, profiling):
        monkeypatch.setattr(module, "necks_like", lambda neck: [neck, *necks_like(neck)[1::8]])


def test_the_neck_is_searched_with_the_backbone_in_one_budget(
    device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "RACE", 600)
    only_some_necks(monkeypatch)
    settings = {**DEVICE, "max_layers": 19, "max_latency_ms": 3.0}
    fixed = searched(tmp_path / "fixed", **settings)
    free = searched(tmp_path / "free", search_neck=True, **settings)
    like = read_spec("T")
    assert fixed.found[0].spec.neck == like.neck
    assert free.found[0].spec.neck in necks_like(like.neck)
    assert free.found[0].measured_ms <= 3.0
    rivals = [
        DetectorMadNas(SPACES["k1kx"].frame, each.spec.neck, SPACES["k1kx"].stage_weights)(
            genome_of(each.spec.structure)
        )
        for each in (free.found[0], fixed.found[0])
    ]
    assert rivals[0] == pytest.approx(free.found[0].score)
    assert rivals[0] > rivals[1]
    detector = dy.build(str(free.found[0].file), num_classes=3)
    assert sum(each.numel() for each in fuse(detector).parameters()) == free.found[0].costs.params


def test_the_activation_is_that_of_backbone_and_neck_and_of_what_was_measured(
    device: FakeDevice, tmp_path: Path
) -> None:
    settings = {**DEVICE, "max_latency_ms": 3.0}
    assert SPACES["csp"].activated("relu").seed.spp_activation == "relu"
    assert SPACES["csp"].activated("silu").seed.wrap_activation == "silu"
    (found, *_) = searched(tmp_path / "a", activation="silu", **settings).found
    assert (found.spec.structure.activation, found.spec.neck.activation) == ("silu", "silu")
    assert device.activations == {"silu"}
    (profile,) = (tmp_path / "home").rglob("*.json")
    with pytest.raises(UserError, match=r"activation silu, not relu; give --activation silu, or run"):
        searched(tmp_path / "b", latency_table=profile, **settings)
    searched(tmp_path / "c", **settings)
    assert device.activations == {"silu", "relu"}


def test_a_profile_of_one_neck_is_refused_for_a_search_of_many(device: FakeDevice, tmp_path: Path) -> None:
    searched(tmp_path / "a", max_latency_ms=3.0, **DEVICE)
    (profile,) = (tmp_path / "home").rglob("*.json")
    with pytest.raises(UserError, match="was measured with one neck; run damoyolo profile with --search-n"):
        searched(tmp_path / "b", image_size=96, max_latency_ms=3.0, latency_table=profile, search_neck=True)


def test_the_size_of_the_image_is_searched_in_the_same_budget(
    device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "RACE", 100)
    settings = {"device": "openvino-cpu", "candidates": 300, "max_latency_ms": 2.5, **SIZED}
    lines: list[str] = []
    result = search_backbone(config(tmp_path / "a", **settings), say=lines.append)
    told = [line for line in lines if " px: " in line]
    assert [line.split(" px")[0] for line in told] == ["64", "96", "128"]
    raced = {int(line.split(" px")[0]): float(line.split("score ")[1]) for line in told if "score" in line}
    assert len(list((tmp_path / "home").rglob("*.json"))) == 3
    chosen = max(raced, key=raced.__getitem__)
    assert {found.spec.image_size for found in result.found} == {result.config.image_size} == {chosen}
    assert result.found[0].measured_ms <= 2.5
    assert result.found[0].score >= raced[chosen]

    lines.clear()
    again = search_backbone(config(tmp_path / "a", **{**settings, "candidates": 500}), True, lines.append)
    assert (again.tried, again.config.image_size) == (500, chosen)
    assert not [line for line in lines if " px: " in line]
    with pytest.raises(UserError, match="was made with image_sizes"):
        searched(tmp_path / "a", resume=True, **{**settings, "image_sizes": (64,)})


def test_a_tight_budget_of_flops_takes_a_smaller_image_and_an_impossible_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "RACE", 200)
    sizes = (64, 256)
    tight = searched(tmp_path / "tight", max_gflops=0.25, **{**SIZED, "image_sizes": sizes})
    assert tight.found[0].spec.image_size == 64
    wide = searched(tmp_path / "wide", max_gflops=20.0, **{**SIZED, "image_sizes": sizes})
    assert wide.found[0].spec.image_size == 256
    with pytest.raises(UserError, match="counting the detector at 64 px is "):
        searched(tmp_path / "none", max_gflops=0.001, **{**SIZED, "image_sizes": sizes})


def test_neck_and_image_are_searched_together_by_deepmad(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(race, "RACE", 100)
    only_some_necks(monkeypatch)
    result = searched(tmp_path, max_gflops=1.0, search_neck=True, **SIZED)
    assert result.found[0].spec.neck in necks_like(read_spec("T").neck)
    assert result.found[0].costs.flops <= 1e9
    assert dy.build(str(result.found[0].file), num_classes=3).card.image_size[0] in SIZED["image_sizes"]


def test_an_interrupted_measurement_leaves_nothing_and_can_be_gone_on_from(
    device: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: Any, **__: Any) -> list[float]:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(device, "time_ops", interrupted)
        with pytest.raises(KeyboardInterrupt):
            searched(tmp_path / "a", max_latency_ms=3.0, **DEVICE)
    assert not (tmp_path / "a").exists()
    assert not list((tmp_path / "home").rglob("*"))
    assert searched(tmp_path / "a", resume=True, max_latency_ms=3.0, **DEVICE).found
