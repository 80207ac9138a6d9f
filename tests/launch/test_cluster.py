"""The launchers for clusters: their files are sound, and what they start is what we have.

The programs of a cluster (srun, gcloud, ...) are stand-ins, so that no cluster is needed.
"""

import importlib
import json
import math
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest
import yaml

from launch import cli
from ssa_jax.training import distributed
from tests.support import ROOT

CLUSTER = ROOT / "launch/cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
IMAGES = sorted(CLUSTER.glob("Dockerfile.*"))
MANIFESTS = sorted((CLUSTER / "kubernetes").glob("*.yaml"))
JOBSETS = [path for path in MANIFESTS if path.stem.endswith("jobset")]
PODS = [path for path in MANIFESTS if path.stem != "disk"]
WORK = {"train": "train", "sweep": "sweep", "predict": "find_scans"}  # first after the flags
USER, SIGTERM_SECONDS = 1000, 120  # user of the images; seconds for a step and a checkpoint
RECORD = """
import json, os, sys
with open(os.environ["CALLS"], "a") as file:
    file.write(json.dumps([os.path.basename(sys.argv[0]), *sys.argv[1:]]) + "\\n")
"""


def name_of(path):
    return path.name


def checker(name):
    """A program of the development requirements."""
    places = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    found = shutil.which(name, path=places)
    return found or pytest.skip(f"{name} is not installed; see requirements-dev.txt")


class Stage:
    """A folder with stand-ins for programs, which note how they were called."""

    def __init__(self, folder):
        self.folder = folder
        self.calls_file = folder / "calls"
        (folder / "bin").mkdir()
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self.env = os.environ | {"PATH": path, "HOME": str(folder), "CALLS": str(self.calls_file)}

    def program(self, name, body=""):
        text = f"#!{sys.executable}\n{RECORD}\n{body}\n"
        path = self.folder / "bin" / name
        path.write_text(text)
        path.chmod(0o755)

    def start(self, *words, **env):
        pipe = subprocess.PIPE
        # Where the tests run in the background, SIGINT is ignored, and a shell could not trap it.
        before = signal.signal(signal.SIGINT, signal.default_int_handler)
        try:
            return subprocess.Popen(words, env=self.env | env, stdout=pipe, stderr=pipe, text=True)
        finally:
            signal.signal(signal.SIGINT, before)

    def run(self, *words, **env):
        process = self.start(*words, **env)
        process.out, process.err = process.communicate(timeout=60)
        return process

    def calls(self, name):
        if not self.calls_file.exists():
            return []
        calls = [json.loads(line) for line in self.calls_file.read_text().splitlines()]
        return [call[1:] for call in calls if call[0] == name]

    def wait_for_calls(self, name, count):
        deadline = time.monotonic() + 30
        while len(self.calls(name)) < count:
            assert time.monotonic() < deadline
            time.sleep(0.02)


@pytest.fixture
def stage(tmp_path):
    return Stage(tmp_path)


@pytest.fixture
def accepts(monkeypatch):
    """Whether a command takes a command line, up to its work; returns how JAX was connected."""

    class Reached(Exception):
        pass

    def work(*_, **__):
        raise Reached

    connected = []
    monkeypatch.setattr(distributed, "_initialize", lambda *given: connected.append(given))

    def check(words):
        assert words[0] in cli.COMMANDS
        module = importlib.import_module(f"launch.{words[0]}")
        monkeypatch.setattr(module, WORK[words[0]], work)
        with pytest.raises(Reached):
            module.main(list(words[1:]))
        return connected[-1] if connected else None

    return check


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_scripts_are_bash(path):
    done = subprocess.run(["bash", "-n", path], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_shellcheck_finds_nothing(path):
    done = subprocess.run([checker("shellcheck"), path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", IMAGES, ids=name_of)
def test_hadolint_finds_nothing(path):
    done = subprocess.run([checker("hadolint"), path], capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "")


@pytest.mark.parametrize("path", IMAGES, ids=name_of)
def test_an_image_installs_extras_that_exist_for_another_user_than_root(path):
    text = path.read_text()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (extras,) = re.findall(r'pip install .*"/source\[(.*)\]"', text)
    assert {path.suffix[1:].replace("gpu", "cuda"), "dicom"} == set(extras.split(","))
    assert set(extras.split(",")) <= set(project["project"]["optional-dependencies"]) - {"dev"}
    assert re.findall(r"^USER (.*)$", text, re.M) == [str(USER)] and f"--uid {USER} " in text
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    needed = [*project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"], "README.md"]
    assert {f"!{name}" for name in [*needed, "LICENSE", "pyproject.toml"]} <= set(ignored)


# Several processes of one machine.


LOCAL = ("bash", CLUSTER / "local.sh")
UNTIL_SIGTERM = """
import signal, time
def end(*_):
    sys.argv.append("ended")
    exec(RECORD)
    os._exit(130)
signal.signal(signal.SIGTERM, end)
with open(os.environ["CALLS"] + ".ready", "a") as file:
    file.write(".")
time.sleep(60)
"""


def numbers(calls):
    return sorted(int(call[call.index("--process") + 1]) for call in calls)


def wait_until_ready(stage, count):
    ready, deadline = Path(f"{stage.calls_file}.ready"), time.monotonic() + 30
    while not ready.exists() or len(ready.read_text()) < count:
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_local_starts_each_process_with_its_number_and_gpu(stage, accepts):
    stage.program(
        "program", "os.write(1, f\"gpu {os.environ['JAX_LOCAL_DEVICE_IDS']}\\n\".encode())"
    )
    done = stage.run(*LOCAL, "3", "--config", "covid_semiseg", "--workdir", "W", SSA_JAX="program")
    assert (done.returncode, done.err) == (0, "")
    assert sorted(done.out.splitlines()) == ["gpu 0", "gpu 1", "gpu 2"]
    calls = stage.calls("program")
    assert numbers(calls) == [0, 1, 2]
    connected = {accepts(call) for call in calls}
    assert len({address for address, _, _ in connected}) == 1
    assert {(count, number) for _, count, number in connected} == {(3, 0), (3, 1), (3, 2)}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_local_passes_signals_on_to_every_process(stage, number):
    stage.program("ssa-jax", f"RECORD = {RECORD!r}\n{UNTIL_SIGTERM}")
    started = stage.start(*LOCAL, "3", "--quiet")
    wait_until_ready(stage, 3)
    started.send_signal(number)
    started.communicate(timeout=30)
    assert started.returncode == 130
    assert numbers(call for call in stage.calls("ssa-jax") if "ended" in call) == [0, 1, 2]


def test_local_ends_with_the_first_process_that_fails(stage):
    ready = "while len(open(os.environ['CALLS'] + '.ready').read()) < 2: time.sleep(0.02)"
    fails = (
        f"import time\nif sys.argv[-1] == '1':\n    time.sleep(0.5)\n    {ready}\n    sys.exit(7)"
    )
    stage.program("ssa-jax", f"RECORD = {RECORD!r}\n{fails}\n{UNTIL_SIGTERM}")
    start = time.monotonic()
    done = stage.run(*LOCAL, "3")
    assert time.monotonic() - start < 30
    assert done.returncode == 7
    assert done.err.splitlines()[0] == "process 1 ended with status 7"
    assert numbers(call for call in stage.calls("ssa-jax") if "ended" in call) == [0, 2]


def test_local_notices_processes_that_end_at_once(stage):
    stage.program("ssa-jax", "sys.exit(2)")
    for _ in range(3):
        assert stage.run(*LOCAL, "4").returncode == 2


@pytest.mark.parametrize("given", [(), ("0",), ("--workdir", "W")])
def test_local_wants_a_number(stage, given):
    done = stage.run(*LOCAL, *given)
    assert done.returncode == 2 and "expected the number of processes" in done.err


# Slurm.


SLURM = sorted(CLUSTER.glob("slurm_*.sh"))
JOB = {"SLURM_JOB_ID": "77", "SLURM_CPUS_PER_TASK": "8"}
TASK = {"SLURM_ARRAY_JOB_ID": "77", "SLURM_ARRAY_TASK_ID": "3", "SLURM_ARRAY_TASK_COUNT": "8"}
SRUN = "os.execvp('ssa-jax', sys.argv[sys.argv.index('ssa-jax'):])"
GIVEN = {
    "slurm_train.sh": ["--config.train.epochs=20"],
    "slurm_sweep.sh": ["--folds", "5", "--rounds", "--config.data.source_dir=a b"],
    "slurm_predict.sh": ["--intensity", "hu", "a b"],
}


def slurm(stage, path, *, status=0, state="RUNNING", **env):
    """A script as Slurm runs it, with the exit status of ssa-jax and the state of the job."""
    stage.program("srun", SRUN)
    stage.program("ssa-jax", f"sys.exit({status})")
    stage.program("squeue", f"print({state!r})")
    stage.program("scontrol")
    array = {} if "train" in path.name else TASK
    return stage.run("bash", path, *GIVEN[path.name], **(JOB | array | env))


def options(path):
    lines = path.read_text().splitlines()
    found = [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH ")]
    commands = [line for line in lines if line and not line.startswith("#")]
    before = lines[: lines.index(commands[0])]
    assert sum(line.startswith("#SBATCH ") for line in before) == len(found)  # or Slurm passes over
    return dict(option.lstrip("-").partition("=")[::2] for option in found)


@pytest.mark.parametrize("path", SLURM, ids=name_of)
def test_slurm_signals_the_processes_and_puts_the_job_back(path):
    found = options(path)
    assert found["signal"] == f"TERM@{SIGTERM_SECONDS}"  # with B: it would be for the shell alone
    assert "requeue" in found and found["open-mode"] == "append"
    assert "gpus-per-task" not in found  # hides from JAX the GPU that it chooses
    assert found.get("ntasks-per-node", found.get("ntasks")) == found["gpus-per-node"]
    assert ("array" in found) == ("SLURM_ARRAY_TASK_ID" in path.read_text())
    assert found.get("array", "1-1").startswith("1-")  # --shard counts from 1


@pytest.mark.parametrize("path", SLURM, ids=name_of)
def test_slurm_starts_a_command_that_we_have(stage, path, accepts):
    assert slurm(stage, path).returncode == 0
    (words,) = stage.calls("ssa-jax")
    assert words[0] == path.stem.removeprefix("slurm_")
    assert words[-1] == GIVEN[path.name][-1]
    assert ("3/8" in words) == ("array" in options(path))
    accepts(words)


@pytest.mark.parametrize(
    ("status", "state", "again"),
    [
        (0, "RUNNING", False),
        (2, "RUNNING", False),
        (130, "RUNNING", True),
        (130, "COMPLETING", False),
    ],
)
@pytest.mark.parametrize("path", SLURM, ids=name_of)
def test_slurm_puts_an_interrupted_job_back_unless_it_was_cancelled(
    stage, path, status, state, again
):
    assert slurm(stage, path, status=status, state=state).returncode == status
    job = "77" if "train" in path.name else "77_3"
    assert stage.calls("scontrol") == ([["requeue", job]] if again else [])


@pytest.mark.parametrize(
    ("name", "lock"),
    [
        ("slurm_train.sh", "W/.lock"),
        ("slurm_sweep.sh", "P/.lock-3-of-8"),
        ("slurm_predict.sh", "masks/.lock.3-of-8"),
    ],
)
def test_slurm_waits_for_the_lock_of_a_node_that_died(stage, name, lock):
    lock = stage.folder / lock
    stage.program("sleep", f"os.utime({str(lock)!r}, (0, 0))")
    lock.parent.mkdir()
    lock.touch()
    assert slurm(stage, CLUSTER / name).returncode == 0
    assert stage.calls("sleep") == [["30"]]
    assert len(stage.calls("ssa-jax")) == 1


def test_the_names_of_the_locks_are_those_of_the_commands(tmp_path):
    from ssa_jax.experiment.batch import RunOptions
    from ssa_jax.experiment.lock import in_use

    with RunOptions(shard=(3, 8)).only_run(tmp_path / "masks"):
        assert (tmp_path / "masks/.lock.3-of-8").exists()
    with in_use(tmp_path / "W"):
        assert (tmp_path / "W/.lock").exists()
    text = (ROOT / "ssa_jax/experiment/sweep.py").read_text()
    assert 'f"-{part}-of-{parts}"' in text  # of the lock of a sweep


# Kubernetes.


def manifest(path):
    return next(yaml.safe_load_all(path.read_text()))


def job_of(path):
    """The Job of a manifest, which a JobSet holds."""
    found = manifest(path)
    if found["kind"] == "Job":
        return found
    (replicated,) = found["spec"]["replicatedJobs"]
    head = {"apiVersion": "batch/v1", "kind": "Job", "metadata": {"name": replicated["name"]}}
    return head | replicated["template"]


def pod_of(path):
    return job_of(path)["spec"]["template"]["spec"]


def container_of(path):
    (container,) = pod_of(path)["containers"]
    return container


def exit_codes(path):
    rules = job_of(path)["spec"]["podFailurePolicy"]["rules"]
    return {rule["action"]: rule["onExitCodes"] for rule in rules if "onExitCodes" in rule}


@pytest.mark.parametrize("path", MANIFESTS, ids=name_of)
def test_kubernetes_schema(path, tmp_path):
    """Of JobSets the Job within; the schema of JobSet itself is not on PyPI."""
    found = [job_of(path)] if path in JOBSETS else yaml.safe_load_all(path.read_text())
    file = tmp_path / path.name
    file.write_text(yaml.safe_dump_all(found))
    words = [checker("kubernetes-validate"), "--strict", file]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("path", JOBSETS, ids=name_of)
def test_a_jobset_restarts_all_but_for_what_the_user_has_to_mend(path):
    found, job = manifest(path), job_of(path)["spec"]
    assert found["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert set(found["spec"]) == {"failurePolicy", "replicatedJobs"}
    policy = found["spec"]["failurePolicy"]
    assert policy["maxRestarts"] > 0
    (rule,) = policy["rules"]
    assert re.fullmatch("[A-Za-z][A-Za-z0-9_]*", rule["name"])
    assert (rule["action"], rule["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert exit_codes(path)["FailJob"]["values"] == [cli.USER_ERROR]
    assert exit_codes(path)["FailJob"]["containerName"] == container_of(path)["name"]
    assert job["backoffLimit"] == 0
    assert job["completions"] == job["parallelism"]
    assert pod_of(path)["restartPolicy"] == "Never"
    assert pod_of(path)["terminationGracePeriodSeconds"] >= SIGTERM_SECONDS


@pytest.mark.parametrize("path", JOBSETS, ids=name_of)
def test_the_pods_of_a_jobset_train_together(path, accepts):
    found, job = manifest(path), job_of(path)["spec"]
    program, *words = container_of(path)["command"]
    assert program == cli.PROGRAM
    connected = []
    for index in range(job["completions"]):
        given = [word.replace("$(JOB_COMPLETION_INDEX)", str(index)) for word in words]
        connected.append(accepts(given))
    if "gpu" in path.name:
        name = found["metadata"]["name"]
        first = f"{name}-{found['spec']['replicatedJobs'][0]['name']}-0-0.{name}:8476"
        assert connected == [(first, job["completions"], index) for index in range(len(connected))]
    else:  # what JAX finds
        assert set(connected) == {()}


def test_the_hosts_of_a_tpu_slice_are_those_of_its_topology():
    (path,) = (path for path in JOBSETS if "tpu" in path.name)
    topology = pod_of(path)["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = container_of(path)["resources"]["limits"]["google.com/tpu"]
    hosts = job_of(path)["spec"]["completions"]
    assert math.prod(map(int, topology.split("x"))) == chips * hosts


def test_the_pods_of_predict_do_every_part_once(stage, accepts):
    path = CLUSTER / "kubernetes/predict_job.yaml"
    container, job = container_of(path), job_of(path)["spec"]
    stage.program("ssa-jax")
    env = {one["name"]: one["value"] for one in container["env"]}
    assert env["SHARDS"] == str(job["completions"]) and job["completionMode"] == "Indexed"
    for index in range(job["completions"]):
        done = stage.run(*container["command"], JOB_COMPLETION_INDEX=str(index), **env)
        assert done.returncode == 0, done.err
    calls = stage.calls("ssa-jax")
    for words in calls:
        accepts(words)
    parts = [words[words.index("--shard") + 1] for words in calls]
    assert parts == [f"{part}/8" for part in range(1, 9)]
    assert exit_codes(path)["FailIndex"]["values"] == [cli.USER_ERROR, cli.SOME_FAILED]
    assert job["podFailurePolicy"]["rules"][0]["onPodConditions"] == [{"type": "DisruptionTarget"}]


@pytest.mark.parametrize(
    ("path", "lock"),
    [(path, "W/.lock") for path in JOBSETS]
    + [(CLUSTER / "kubernetes/predict_job.yaml", "masks/.lock.3-of-8")],
    ids=lambda value: value.name if isinstance(value, Path) else "",
)
def test_pods_wait_for_the_lock_of_a_node_that_died(stage, path, lock):
    (waits,) = pod_of(path)["initContainers"]
    command = [word.replace("/data", str(stage.folder)) for word in waits["command"]]
    lock = stage.folder / lock
    lock.parent.mkdir()
    lock.touch()
    stage.program("sleep", f"os.utime({str(lock)!r}, (0, 0))")
    done = stage.run(*command, JOB_COMPLETION_INDEX="2", SHARDS="8")
    assert (done.returncode, done.err) == (0, "")
    assert stage.calls("sleep") == [["30"]]
    assert waits["image"] == container_of(path)["image"]


@pytest.mark.parametrize("path", PODS, ids=name_of)
def test_pods_share_the_disk(path):
    disk = manifest(CLUSTER / "kubernetes/disk.yaml")
    assert disk["spec"]["accessModes"] == ["ReadWriteMany"]
    (claim,) = (one for one in pod_of(path)["volumes"] if "persistentVolumeClaim" in one)
    assert claim["persistentVolumeClaim"]["claimName"] == disk["metadata"]["name"]
    assert {"name": claim["name"], "mountPath": "/data"} in container_of(path)["volumeMounts"]


# TPU VMs.


def test_tpu_vm_runs_every_step_on_all_hosts(stage, accepts):
    stage.program("gcloud")
    script = ("bash", CLUSTER / "tpu_vm.sh")
    given = ["--config", "covid_semiseg", "--config.data.source_dir=a b"]
    steps = {"create": "create", "install": "scp ssh", "train": "ssh", "stop": "ssh"}
    for step, verbs in (steps | {"delete": "delete"}).items():
        before = len(stage.calls("gcloud"))
        done = stage.run(*script, step, *(given if step == "train" else ()))
        assert done.returncode == 0, done.err
        calls = stage.calls("gcloud")[before:]
        assert [call[:3] for call in calls] == [["compute", "tpus", "tpu-vm"]] * len(calls)
        assert " ".join(call[3] for call in calls) == verbs
        for call in calls:
            assert ("--worker=all" in call) == (call[3] in ("scp", "ssh"))
            for word in call:
                if word.startswith("--command="):
                    text = word.removeprefix("--command=")
                    assert subprocess.run(["bash", "-n", "-c", text]).returncode == 0
        if step == "train":
            words = shlex.split(text)
            assert accepts(words[words.index("train") :]) == ()
            assert words[-1] == given[-1]
    assert stage.run(*script).returncode == 2
