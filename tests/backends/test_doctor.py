"""`python -m tinyseq.doctor`: what it makes of facts, and where it takes them from. No GPU is needed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tinyseq.backends import doctor
from tinyseq.backends.doctor import Facts, Finding, diagnose

ONE = {"cupy-cuda13x": "14.2.0"}
FINE = Facts(ONE, driver=13010, hardware=True, smi="NVIDIA L4, 580.65", built=13020, devices=(("NVIDIA L4", 89),))
NO_DEVICE = FINE._replace(devices=(), device_error="cudaErrorNoDevice: no CUDA-capable device is detected")
TWELVE = "pip uninstall -y cupy-cuda13x && pip install 'tinyseq[cuda12]'"
AGAIN, ASKED = "python -m tinyseq.doctor    # on a machine that has one", {"TINYSEQ_BACKEND": "cupy"}

CASES = [
    (Facts({}), "tinyseq runs on NumPy here", AGAIN),
    (Facts({}, environment=ASKED), "No NVIDIA GPU is found, and TINYSEQ_BACKEND asks for one",
     "export TINYSEQ_BACKEND=numpy"),
    (Facts({}, hardware=True), "no driver loads", "sudo ubuntu-drivers install"),
    (Facts({}, container=True, hardware=True), "container", "docker run --gpus all ..."),
    (Facts({}, container=True, environment=ASKED), "container", "docker run --gpus all ..."),
    (Facts({}, container=True), "tinyseq runs on NumPy here", AGAIN),
    (Facts({}, driver=13010), "CuPy is not installed", "pip install 'tinyseq[cuda13]'"),
    (Facts({}, driver=12040), "CuPy is not installed", "pip install 'tinyseq[cuda12]'"),
    (Facts({}, driver=14000), "CuPy is not installed", "pip install 'tinyseq[cuda13]'"),
    (Facts({}, driver=11080), "runs CUDA 11.8 at most, CuPy 14 needs 12.0", "sudo ubuntu-drivers install"),
    (Facts(ONE), "tinyseq runs on NumPy here", AGAIN),
    (FINE._replace(packages={"cupy": "14.0.1", "cupy-cuda12x": "14.2.0", **ONE}),
     "Several CuPy packages conflict: cupy, cupy-cuda12x, cupy-cuda13x.",
     "pip uninstall -y cupy cupy-cuda12x cupy-cuda13x && pip install 'tinyseq[cuda13]'"),
    (FINE._replace(import_error="libnvrtc.so.13: wrong ELF class"), "wrong ELF class",
     "pip uninstall -y cupy-cuda13x && pip install 'tinyseq[cuda13]'"),
    (FINE._replace(packages={"cupy-cuda12x": "13.6.0"}), "cupy-cuda12x 13.6.0 cannot be used: tinyseq needs 14",
     "pip uninstall -y cupy-cuda12x && pip install 'tinyseq[cuda13]'"),
    (NO_DEVICE._replace(driver=12080), "runs CUDA 12.8 at most, and cupy-cuda13x is built for 13.2", TWELVE),
    (NO_DEVICE._replace(environment={"CUDA_VISIBLE_DEVICES": ""}), "CUDA_VISIBLE_DEVICES='' hides all",
     "unset CUDA_VISIBLE_DEVICES"),
    (NO_DEVICE._replace(environment={"CUDA_VISIBLE_DEVICES": "7"}), "CUDA_VISIBLE_DEVICES='7' hides all",
     "unset CUDA_VISIBLE_DEVICES"),
    (NO_DEVICE._replace(smi="Driver/library version mismatch"), "was updated", "sudo reboot"),
    (NO_DEVICE, "No CUDA device is found: cudaErrorNoDevice", "nvidia-smi"),
    (FINE._replace(devices=(("Tesla V100", 70),)), "CUDA 13 does not support Tesla V100", TWELVE),
    *((FINE._replace(kernel_error=error), f"libraries or headers are missing: {error}.",
       "pip install 'cupy-cuda13x[ctk]'")
      for error in ('error: cannot open source file "cuda_fp16.h"', 'Failure finding "libnvrtc.so"',
                    "libcublas.so.13: cannot open shared object file", "Could not find nvrtc64_130_0.dll")),
    (FINE._replace(kernel_error="CUDA_ERROR_INVALID_PTX"), "A small kernel fails: CUDA_ERROR_INVALID_PTX",
     "pip install --force-reinstall --no-deps cupy-cuda13x==14.2.0"),
    (FINE._replace(environment={"CUDA_PATH": "/gone"}, stray=("CUDA_PATH",)), "CUDA_PATH=/gone", "unset CUDA_PATH"),
]


@pytest.mark.parametrize(("facts", "says", "command"), CASES, ids=[says[:40] for _, says, _ in CASES])
def test_each_fault_has_its_sentence_and_its_command(facts: Facts, says: str, command: str) -> None:
    first = diagnose(facts)[0]
    assert says in first.sentence
    assert first.command == command
    for sentence, line in diagnose(facts):
        assert sentence.endswith(".") and "\n" not in sentence + line


def test_a_working_gpu_has_no_finding() -> None:
    assert diagnose(FINE) == []
    twelve = FINE._replace(packages={"cupy-cuda12x": "14.2.0"}, built=12090, devices=(("Tesla V100", 70),))
    assert diagnose(twelve) == []
    assert diagnose(FINE._replace(driver=0)) == []  # libcuda elsewhere: a kernel ran, and that decides


def test_several_causes_are_all_named() -> None:
    facts = FINE._replace(environment={"CUDA_PATH": "/gone"}, stray=("CUDA_PATH",),
                          kernel_error="Failure finding libcublas.so")
    assert [f.command for f in diagnose(facts)] == ["unset CUDA_PATH", "pip install 'cupy-cuda13x[ctk]'"]


@pytest.mark.parametrize(("driver", "extra"), [(0, 13), (11040, 12), (11080, 12), (12000, 12), (12090, 12), (13000, 13),
                                               (14000, 13)])
@pytest.mark.parametrize("packages", [{}, {"cupy": "13.6.0"}])
def test_the_extra_that_is_advised_exists(driver: int, extra: int, packages: dict[str, str]) -> None:
    first, *rest = diagnose(Facts(packages, driver=driver, hardware=True))
    assert (first.command == "sudo ubuntu-drivers install") == (driver < 12000)  # before CuPy, as nothing else helps
    installs = [f.command for f in [first, *rest] if "pip install" in f.command]
    assert len(installs) == 1 and f"'tinyseq[cuda{extra}]'" in installs[0]


def test_a_wrong_sum_is_a_finding_with_and_without_o() -> None:
    """`assert` would be gone under python -O."""
    program = """if True:
        import sys, types
        import tinyseq.backends.doctor as doctor
        class Halves:
            def astype(self, dtype): return self
            def __matmul__(self, other): return self
            def __add__(self, other): return self
            def sum(self): return 14.0
        device = {"name": b"NVIDIA L4", "major": 8, "minor": 9}
        runtime = types.SimpleNamespace(runtimeGetVersion=lambda: 13020, getDeviceCount=lambda: 1,
                                        getDeviceProperties=lambda i: device, CUDARuntimeError=RuntimeError)
        sys.modules["cupy"] = types.SimpleNamespace(cuda=types.SimpleNamespace(runtime=runtime), float16="float16",
                                                    arange=lambda n: Halves())
        print(doctor.cupy_facts().get("kernel_error"))
    """
    for flags in ([], ["-O"]):
        done = subprocess.run([sys.executable, *flags, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout == "0 + 1 + 4 + 9 + 1 is 14.0 there, not 15.0\n"


@pytest.mark.parametrize(("facts", "code"), [
    (FINE, 0), (NO_DEVICE, 1), (Facts({}), 0), (Facts(ONE), 0), (Facts({}, container=True), 0),
    (Facts({}, environment=ASKED), 1), (Facts({}, container=True, environment=ASKED), 1), (Facts({}, hardware=True), 1),
    (Facts({}, driver=13010), 1), (Facts({}, environment={"TINYSEQ_BACKEND": "numpy"}), 0)])
def test_the_exit_code_says_whether_all_is_well(facts: Facts, code: int, monkeypatch: pytest.MonkeyPatch,
                                                capsys: pytest.CaptureFixture[str]) -> None:
    """Where there is no GPU, and none is asked for, it is well that NumPy works."""
    monkeypatch.setattr(doctor, "probe", lambda: facts)
    monkeypatch.setenv("TINYSEQ_TF32", "1")
    assert doctor.main() == code
    first, *said = capsys.readouterr().out.splitlines()
    assert first.startswith("NumPy works") and any("BLAS" in line and "thread" in line for line in said)
    assert any("TINYSEQ_TF32=1" in line for line in said)
    assert ("All is well: a kernel ran on NVIDIA L4." in said) == (facts is FINE)
    if facts == Facts({}):  # the way to a GPU, after all that
        assert said[-1].strip() == "pip install 'tinyseq[cuda13]'"


def test_numpy_comes_first_where_it_fails_too(monkeypatch: pytest.MonkeyPatch,
                                             capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(doctor, "probe", lambda: FINE)
    monkeypatch.setattr(doctor.doctor_numpy, "fault", lambda: "3 of 4 entries are wrong")
    assert doctor.main() == 1
    assert capsys.readouterr().out.startswith("NumPy does not work: 3 of 4 entries are wrong.\n")


def test_it_runs_here() -> None:
    for asked in ("", "cupy"):
        done = subprocess.run([sys.executable, "-m", "tinyseq.doctor"], capture_output=True, text=True,
                              env=os.environ | {"TINYSEQ_BACKEND": asked})
        assert done.stderr == "" and done.stdout.startswith("NumPy works")
        no_gpu = doctor.driver_version() == 0 and not doctor.gpu_on_bus()
        assert done.returncode == (0 if "All is well" in done.stdout or (no_gpu and not asked) else 1)


def test_help_is_help_alone() -> None:
    done = subprocess.run([sys.executable, "-m", "tinyseq.doctor", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.startswith("usage") and "NumPy works:" not in done.stdout


def test_variables_that_lead_astray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in doctor.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    for folder in ("include", "lib64", "stubs", "lib"):
        (tmp_path / folder).mkdir()
    assert doctor.stray(13) == ()
    monkeypatch.setenv("CUDA_PATH", str(tmp_path))
    assert doctor.stray(13) == ()
    (tmp_path / "lib64/libcublas.so.12").touch()
    assert (doctor.stray(13), doctor.stray(12)) == (("CUDA_PATH",), ())
    monkeypatch.setenv("CUDA_PATH", str(tmp_path / "gone"))
    assert doctor.stray(12) == ("CUDA_PATH",)
    monkeypatch.setenv("LD_LIBRARY_PATH", os.pathsep.join(["", str(tmp_path / "lib")]))
    assert doctor.stray(12) == ("CUDA_PATH",)
    (tmp_path / "lib/libcublas.so.12").touch()
    assert (doctor.stray(12), doctor.stray(13)) == (("CUDA_PATH",), ("CUDA_PATH", "LD_LIBRARY_PATH"))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path / "stubs"))
    assert doctor.stray(13) == ("CUDA_PATH", "LD_LIBRARY_PATH")


def test_nvidia_smi_may_answer_complain_or_be_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.smi() == ""
    program = tmp_path / "nvidia-smi"
    program.write_text("#!/bin/sh\necho NVIDIA L4, 580.65\n")
    program.chmod(0o755)
    assert doctor.smi() == "NVIDIA L4, 580.65"
    program.write_text("#!/bin/sh\necho Driver/library version mismatch >&2\nexit 18\n")
    assert doctor.smi() == "Driver/library version mismatch"


def test_the_installed_cupy_packages_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cupy", "cupy_cuda12x", "cupy_helpers"):
        folder = tmp_path / f"{name}-14.2.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 14.2.0\n")
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    monkeypatch.setattr(doctor, "cupy_facts", lambda: {"import_error": "not tried"})
    assert doctor.probe().packages == {"cupy": "14.2.0", "cupy-cuda12x": "14.2.0"}


def test_the_line_of_a_compiler_that_says_most() -> None:
    error = RuntimeError('kernel.cu(1):\n\nx.cu(2): catastrophic error: cannot open source file "cuda_fp16.h"\n1 error')
    assert doctor.line(error) == 'x.cu(2): catastrophic error: cannot open source file "cuda_fp16.h"'
    assert doctor.line(KeyError()) == "KeyError"
    assert isinstance(Finding("a.", "b"), tuple)
