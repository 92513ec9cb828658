"""Whether NumPy works, what keeps this machine's GPU from being used, and what to type: `python -m tinyseq.doctor`.

The probes below look at one thing each and return facts; `diagnose` turns facts into findings, a sentence and a command
each. Before that it says what NumPy does here (doctor_numpy.py). The exit code is 0 if NumPy works and nothing keeps a
GPU from being used, or there is none and TINYSEQ_BACKEND asks for none.
"""

import ctypes
import os
import re
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from typing import Any, NamedTuple

from tinyseq.backends import doctor_numpy

VARIABLES = ("CUDA_PATH", "CUDA_HOME", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES", "TINYSEQ_BACKEND")


class Facts(NamedTuple):
    """What the probes found. CUDA versions are integers as CUDA's own: 13020 is 13.2; 0 means none."""

    packages: dict[str, str]  # the CuPy distributions that are installed, and their versions
    driver: int = 0  # the newest CUDA that the driver can run; 0 where it does not load
    hardware: bool = False  # an NVIDIA GPU on the bus
    container: bool = False
    smi: str = ""  # what nvidia-smi says: the devices, or its error
    import_error: str = ""
    built: int = 0  # the CUDA that CuPy is built for
    devices: tuple[tuple[str, int], ...] = ()  # (name, compute capability: 90 is 9.0)
    device_error: str = ""
    kernel_error: str = ""  # why a small kernel did not compile or run
    environment: dict[str, str] = {}  # noqa: RUF012 (nobody writes to it); those of VARIABLES that are set
    stray: tuple[str, ...] = ()  # variables that lead to no CUDA, to another one's libraries, or to stubs


class Finding(NamedTuple):
    sentence: str
    command: str

    def __str__(self) -> str:
        return f"{self.sentence}\n    {self.command}"


def diagnose(facts: Facts) -> list[Finding]:
    """What is wrong, the first cause first; nothing if a kernel ran."""
    driver, built, value = _dotted(facts.driver), _dotted(facts.built), facts.environment.get("CUDA_VISIBLE_DEVICES")
    fitting = f"pip install 'tinyseq[cuda{min(max(facts.driver // 1000, 12), 13) if facts.driver else 13}]'"
    package, release = next(iter(facts.packages.items()), ("cupy", "0"))
    remove = f"pip uninstall -y {' '.join(facts.packages)} && "
    none, asked = not facts.devices and not facts.driver, facts.environment.get("TINYSEQ_BACKEND") == "cupy"
    unfit = facts.import_error or ("tinyseq needs 14 or newer" if int(release.partition(".")[0]) < 14 else "")
    old = [name for name, capability in facts.devices if capability < 75 and facts.built >= 13000]
    lacks = re.search(r"nvrtc|cublas|cannot open source|could not open|headers|\.h\b", facts.kernel_error)

    found = _first(
        (none and facts.container and (asked or facts.hardware), "No NVIDIA driver reaches this container.",
         "docker run --gpus all ..."),
        (none and facts.hardware, "There is an NVIDIA GPU, but no driver loads.", "sudo ubuntu-drivers install"),
        (none and asked, "No NVIDIA GPU is found, and TINYSEQ_BACKEND asks for one.", "export TINYSEQ_BACKEND=numpy"),
        (none, "No NVIDIA GPU is found: tinyseq runs on NumPy here.",
         "python -m tinyseq.doctor    # on a machine that has one"),
        (not facts.devices and facts.driver < 12000, f"The driver runs CUDA {driver} at most, CuPy 14 needs 12.0.",
         "sudo ubuntu-drivers install"),
    ) + _first(
        (not facts.packages, "CuPy is not installed.", fitting),
        (len(facts.packages) > 1, f"Several CuPy packages conflict: {', '.join(facts.packages)}.", remove + fitting),
        (unfit, f"{package} {release} cannot be used: {unfit}.", remove + fitting),
    )
    if not found and not facts.devices:
        return _first(
            (facts.driver // 1000 < facts.built // 1000,
             f"The driver runs CUDA {driver} at most, and {package} is built for {built}.", remove + fitting),
            (value is not None, f"CUDA_VISIBLE_DEVICES='{value}' hides all devices.", "unset CUDA_VISIBLE_DEVICES"),
            ("mismatch" in facts.smi, "The driver was updated, and the old one is still loaded.", "sudo reboot"),
            (True, f"No CUDA device is found: {facts.device_error or 'none is listed'}.", "nvidia-smi"),
        )
    found += [Finding(f"{name}={facts.environment[name]} leads to no CUDA, or to another than CuPy's.", f"unset {name}")
              for name in facts.stray]
    return found + _first(
        (old, f"CUDA 13 does not support {', '.join(old)}, older than compute capability 7.5.",
         f"{remove}pip install 'tinyseq[cuda12]'"),
        (lacks, f"CUDA's libraries or headers are missing: {facts.kernel_error}.", f"pip install '{package}[ctk]'"),
        (facts.kernel_error, f"A small kernel fails: {facts.kernel_error}.",
         f"pip install --force-reinstall --no-deps {package}=={release}"),
    )


def _first(*rules: tuple[object, str, str]) -> list[Finding]:
    """The finding of the first rule that applies."""
    return [Finding(sentence, command) for applies, sentence, command in rules if applies][:1]


def _dotted(cuda: int) -> str:
    return f"{cuda // 1000}.{cuda % 1000 // 10}"


# --- probes


def probe() -> Facts:
    """All facts about this machine."""
    names = ((d.metadata["Name"] or "", d.version) for d in distributions())
    packages = {n: v for n, v in sorted(set(names)) if re.fullmatch(r"cupy(-(cuda|rocm).*)?", n)}
    facts = Facts(packages, driver_version(), gpu_on_bus(), Path("/.dockerenv").exists(), smi(),
                  environment={n: os.environ[n] for n in VARIABLES if n in os.environ})
    return facts._replace(**cupy_facts()) if packages else facts


def driver_version() -> int:
    """The newest CUDA that the driver runs, asked of libcuda; 0 if that does not load."""
    try:
        libcuda = ctypes.CDLL("nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1")
    except OSError:
        return 0
    found = ctypes.c_int(0)
    return found.value if libcuda.cuDriverGetVersion(ctypes.byref(found)) == 0 else 0


def gpu_on_bus() -> bool:
    """Whether the kernel lists a display device (class 03) of NVIDIA's (vendor 10de)."""
    return any((device / "vendor").read_text() == "0x10de\n" and (device / "class").read_text().startswith("0x03")
               for device in Path("/sys/bus/pci/devices").glob("*"))


def smi(query: str = "name,driver_version,memory.total") -> str:
    """nvidia-smi's answer to a query, or its complaint; empty if it is not there."""
    try:
        done = subprocess.run(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"], capture_output=True,
                              text=True, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def cupy_facts() -> dict[str, Any]:
    """What CuPy finds: its build, the devices, and whether a kernel and a product run; the first error ends it."""
    facts: dict[str, Any] = {}
    step = "import_error"
    try:
        import cupy

        runtime = cupy.cuda.runtime
        facts["built"] = runtime.runtimeGetVersion()
        facts["stray"] = stray(facts["built"] // 1000)
        step = "device_error"
        found = [runtime.getDeviceProperties(i) for i in range(runtime.getDeviceCount())]
        facts["devices"] = tuple((p["name"].decode(), 10 * p["major"] + p["minor"]) for p in found)
        step = "kernel_error"
        if found:
            halves = cupy.arange(4).astype(cupy.float16)  # needs NVRTC and cuda_fp16.h, and cuBLAS for the product
            if (total := float((halves @ halves + 1).sum())) != 15.0:
                raise ArithmeticError(f"0 + 1 + 4 + 9 + 1 is {total} there, not 15.0")
    except Exception as error:  # whatever it is, it is the finding
        facts[step] = line(error)
    return facts


def stray(major: int) -> tuple[str, ...]:
    """Variables that lead to no CUDA, or to another one than CuPy's: CUDA `major`."""

    def astray(name: str, folder: Path) -> bool:
        majors = {path.name.split(".")[2] for lib in (".", "lib64") for path in folder.glob(f"{lib}/libcublas.so.*")}
        empty = name != "LD_LIBRARY_PATH" and not (folder / "include").is_dir()
        return empty or folder.name == "stubs" or bool(majors and str(major) not in majors)

    folders = {name: [Path(f) for f in os.environ.get(name, "").split(os.pathsep) if f] for name in VARIABLES[:3]}
    return tuple(name for name, paths in folders.items() if any(astray(name, folder) for folder in paths))


def line(error: BaseException) -> str:
    """The line of an error's text that says most: the compiler's, or the first; CuPy draws frames of = around some."""
    lines = [t for text in str(error).splitlines() if (t := text.strip(" =-"))] or [type(error).__name__]
    return next((line for line in lines if "error" in line and ".h" in line), lines[0])


def main() -> int:
    facts, broken = probe(), doctor_numpy.fault()
    first = f"NumPy does not work: {broken}" if broken else "NumPy works: a product came out right"
    print(first, *doctor_numpy.about(), sep=".\n", end=".\n\n")
    packages = [f"{name} {release}" for name, release in facts.packages.items()] or ["no CuPy"]
    devices = [name for name, _ in facts.devices] or ["no device"]
    findings = diagnose(facts)
    print("GPU:", "; ".join(packages + devices))
    for text in list(map(str, findings)) or [f"All is well: a kernel ran on {facts.devices[0][0]}."]:
        print(f"\n{text}")
    wanted = facts.hardware or facts.driver or facts.devices or facts.environment.get("TINYSEQ_BACKEND") == "cupy"
    return 1 if broken or (findings and wanted) else 0


if __name__ == "__main__":
    sys.exit(main())
