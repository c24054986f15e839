import pytest

from edgeattn.errors import ArtifactError, SpecError
from edgeattn.sweep.spec import read_spec

WHOLE = """
[axes]
models = ["mswin_nano", "mine"]
precisions = ["fp32", "int8+fp16"]
batch_sizes = [1, 8]
resolutions = ["28x28", "512"]
engines = ["cpu", "tensorrt"]
options = ["plain", "long"]
boards = ["orin-nano"]

[models.mine]
source = "mine:model"
inputs = ["features:1x3x4"]
weights = "mine.safetensors"
dynamic = true
accuracy = "labelled-{resolution}.npz"
calibration = { data = "images/", samples = 8, percentile = 99 }

[options.plain]
[options.long]
optimization_level = 5
tf32 = false

[measure]
duration_s = 1
mode = "trtexec-11"
streams = 2
board = true
idle_s = 0.5

[[exclude]]
model = "mine"
batch_size = 8

[[include]]
batch_size = 16
"""


def read(tmp_path, text):
    path = tmp_path / "sweep.toml"
    path.write_text(text)
    return read_spec(path)


def test_every_table_of_a_file_is_read(tmp_path):
    spec = read(tmp_path, WHOLE)
    assert spec.axes["batch_sizes"] == (1, 8)
    assert spec.axes["boards"] == ("orin-nano",)
    mine = spec.models["mine"]
    assert (mine.source, mine.dynamic, mine.inputs[0].shape) == ("mine:model", True, (1, 3, 4))
    assert mine.calibration == {"data": "images/", "samples": 8, "percentile": 99}
    assert spec.models["mswin_nano"].source == "mswin_nano"
    assert spec.options["long"] == {"optimization_level": 5, "tf32": False}
    assert spec.measure == {
        "duration_s": 1,
        "mode": "trtexec-11",
        "streams": 2,
        "board": True,
        "idle_s": 0.5,
    }
    assert spec.exclude == ({"model": "mine", "batch_size": 8},)
    assert spec.include == ({"batch_size": 16},)
    assert spec.folder == tmp_path


AXES = '[axes]\nmodels = ["net"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "there is no table [axes]"),
        ("[axes]\nprecisions = ['fp32']", "names no models"),
        (AXES + "[timing]\nx = 1", "the file has the unknown key timing"),
        ("models = ['net']\n" + AXES, "[models] is ['net']; expected a table"),
        (AXES + "batchsizes = [1]", "[axes] has the unknown key batchsizes"),
        (AXES + "batch_sizes = 1", "batch_sizes is 1; expected a list"),
        (AXES + "batch_sizes = []", "batch_sizes is []; expected a list"),
        (AXES + "batch_sizes = [0]", "batch_sizes has 0; expected an integer of at least 1"),
        (AXES + "batch_sizes = [true]", "batch_sizes has True"),
        (AXES + "batch_sizes = [1, 1]", "batch_sizes has 1 twice"),
        (AXES + "precisions = ['int4']", "precisions has 'int4'"),
        (AXES + "engines = ['auto']", "engines has 'auto'"),
        (AXES + "resolutions = ['28*28']", "expected sizes such as 224x224"),
        (AXES + "resolutions = ['0x28']", "expected sizes such as 224x224"),
        (AXES + "options = ['fast']", "there are no options 'fast'"),
        (AXES + "[models.nett]", "[models] has the unknown key nett"),
        (AXES + "[models.net]\nweihgts = 'a'", "[models.net] has the unknown key weihgts"),
        (AXES + "[models.net]\ndynamic = 1", "dynamic of [models.net] is 1; expected true or fal"),
        (AXES + "[models.net]\ninputs = 'x:1'", "has the inputs 'x:1'; expected a list"),
        (AXES + "[models.net]\ninputs = ['x']", "is not of the form NAME:1x3x224x224"),
        (AXES + "[models.net]\nsource = 'a:b'", "does not tell the inputs of a:b"),
        (AXES + "[models.net]\nsource = 'a.onnx'\ndynamic = true", "its own weights and inputs"),
        (AXES + "[models.net]\ncalibration = 'x'", "calibration of [models.net] is 'x'"),
        (AXES + "[models.net.calibration]\nsamples = 1.5", "samples of [models.net] is 1.5"),
        (AXES + "[options.a]\nfp16 = true", "[options.a] has the unknown key fp16"),
        (AXES + "[options.a]\nrecipe = 'lineal'", "has the recipe 'lineal'"),
        (AXES + "[measure]\niterations = 2.0", "iterations of [measure] is 2.0; expected an int"),
        (AXES + "[measure]\nstream = 2", "[measure] has the unknown key stream"),
        (AXES + "[measure]\nboard = 1", "board of [measure] is 1; expected true or false"),
        (AXES + "[measure]\nstreams = 0", "streams of [measure] is 0; expected at least 1"),
        (AXES + "[measure]\nidle_s = -1.0", "idle_s of [measure] is -1.0; expected at least 0"),
        (AXES + "[measure]\nduration_s = nan", "duration_s of [measure] is nan; expected at least"),
        (AXES + "[measure]\nduration_s = inf", "duration_s of [measure] is inf; expected at least"),
        (AXES + "[measure]\nmode = 'trtexec'", "[measure] has the mode 'trtexec'"),
        (AXES + "[measure]\nstreams = 2\nsettle_s = 1", "has streams = 2 and settle_s = 1"),
        (AXES + "[measure]\nboard = false\nidle_s = 1", "has idle_s, and board = false"),
        (AXES + "[exclude]\nmodel = 'net'", "exclude is no list of tables"),
        (AXES + "[[exclude]]", "[[exclude]] number 1 is empty"),
        (AXES + "[[exclude]]\nbatch_sizes = 1", "number 1 has the unknown key batch_sizes"),
        (AXES + "[[exclude]]\nprecision = 'int8'", "which is not in precisions"),
        (AXES + "[[include]]\nmodel = 'other'", "which is not in models"),
        (AXES + "[[include]]\noptions = 'fast'", "there are no options 'fast'"),
    ],
)
def test_what_cannot_be_meant_is_refused_by_its_place(tmp_path, text, message):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, text)
    assert message in caught.value.message
    assert "sweep.toml: " in caught.value.message


def test_a_near_miss_is_named_in_the_hint(tmp_path):
    with pytest.raises(SpecError) as caught:
        read(tmp_path, AXES + "batchsizes = [1]")
    assert "batch_sizes" in caught.value.hint


def test_a_file_that_is_missing_or_no_toml_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="is not TOML"):
        read(tmp_path, "[axes")
    with pytest.raises(ArtifactError, match="there is no file"):
        read_spec(tmp_path / "missing.toml")


def test_names_of_options_are_fields_of_what_tensorrt_is_given():
    from dataclasses import fields

    from edgeattn.engine.tensorrt.options import TensorRtOptions
    from edgeattn.engine.tensorrt.request import TensorRtRequest
    from edgeattn.sweep.spec import TENSORRT_BUILDER_OPTIONS, TENSORRT_OPTIONS

    builder, request = (
        {field.name for field in fields(kind)} for kind in (TensorRtOptions, TensorRtRequest)
    )
    assert set(TENSORRT_BUILDER_OPTIONS) <= builder
    assert set(TENSORRT_OPTIONS) - set(TENSORRT_BUILDER_OPTIONS) <= request


def test_what_every_engine_can_be_told_are_parameters_of_build():
    import inspect

    import edgeattn
    from edgeattn.sweep.spec import BUILD_OPTIONS, TENSORRT_OPTIONS

    assert set(BUILD_OPTIONS) <= set(inspect.signature(edgeattn.build).parameters)
    assert not set(BUILD_OPTIONS) & set(TENSORRT_OPTIONS)


def test_what_measure_takes_are_parameters_of_profile():
    import inspect

    import edgeattn
    from edgeattn.sweep.spec import MEASURE

    assert set(MEASURE) <= set(inspect.signature(edgeattn.profile).parameters)
