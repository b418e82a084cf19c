"""The commands in `cluster/`: passed through the same shells as on a cluster, and parsed by the jobs themselves."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import tyro

from msmtfn.cli import score_daily, train
from tests.cluster.checks import Files, ray_job, workdir
from tests.integration.job import ROOT

PRINT_ARGUMENTS = "#!{python}\nimport json, sys\nprint(json.dumps(sys.argv[1:]))\n"
OMIT = (tyro.conf.OmitArgPrefixes,)


def through_the_shells(entrypoint: str, folder: Path) -> list[str]:
    """Return the arguments that `python` receives on the cluster for the entrypoint of a RayJob.

    KubeRay pastes the entrypoint into a bash script; `ray job submit` joins its arguments, and the head runs the
    resulting line in a shell.
    """
    for name in ("python", "submit"):
        (folder / name).write_text(PRINT_ARGUMENTS.format(python=sys.executable))
        (folder / name).chmod(0o755)
    words = _run(["bash", "-ce", f"submit {entrypoint} ;"], folder)
    return _run(["sh", "-c", subprocess.list2cmdline(words)], folder)


def _run(command: list[str], folder: Path) -> list[str]:
    output = subprocess.run(
        command, env={"PATH": f"{folder}:/usr/bin:/bin"}, capture_output=True, text=True, check=True
    ).stdout
    words: list[str] = json.loads(output)
    return words


def documented(files: Files, name: str) -> list[list[str]]:
    """Return the arguments of `python` in the commands in a file's comments."""
    text = re.sub(r"\\\n#?\s*", "", files[name])
    return [words.split() for words in re.findall(r"^#.* python (\S*jobs/\w+\.py.*)$", text, re.M)]


def parse(files: Files, words: list[str]) -> Any:
    """Parse the arguments as the job would, or raise the SystemExit that it would end with."""
    script, *arguments = words
    local = script.removeprefix(f"{workdir(files)}/")
    assert (ROOT / local).is_file(), f"there is no {script}"
    if local == "jobs/train.py":
        recipe = tyro.extras.overridable_config_cli(train.RECIPES, args=arguments, config=OMIT)
        recipe.check()
        return recipe
    assert local == "jobs/score_daily.py", f"no parser for {script}"
    return tyro.cli(score_daily.Arguments, args=arguments, config=OMIT)


def check_sizes(files: Files, name: str, folder: Path) -> None:
    """Check that the job asks for all GPUs of the cluster, and for no more CPUs than a worker has."""
    job = ray_job(files, name)
    (group,) = job["rayClusterSpec"]["workerGroupSpecs"]
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    gpus = group["maxReplicas"] * int(limits["nvidia.com/gpu"])
    arguments = parse(files, through_the_shells(job["entrypoint"], folder))
    if isinstance(arguments, train.Arguments):
        cluster = arguments.training.cluster
        assert cluster.num_workers * cluster.gpus_per_worker == gpus == group["replicas"], "other GPUs than there are"
        assert cluster.cpus_per_worker < int(limits["cpu"]), "more CPUs than there are"
    else:
        scoring = arguments.scoring
        assert scoring.scorer.device == "cuda", "nothing asks for a GPU"
        assert scoring.pipeline.num_scorers * scoring.pipeline.gpus_per_scorer == gpus, "other GPUs than there are"
        assert group["minReplicas"] <= group["replicas"] <= group["maxReplicas"], "replicas out of range"
