from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

OURS, THEIRS = "import msmtfn", "from transformers import AutoConfig, AutoModel, AutoProcessor"
LOAD = "print(*(type(each.from_pretrained(sys.argv[1])).__name__ for each in (AutoConfig, AutoModel, AutoProcessor)))"


@pytest.mark.slow
@pytest.mark.parametrize(
    "imports",
    [pytest.param((OURS, THEIRS), marks=pytest.mark.long), (THEIRS, OURS)],
    ids=["ours first", "theirs first"],
)
def test_the_auto_classes_know_the_model_once_the_package_is_imported(
    imports: tuple[str, str], tiny_model: Path
) -> None:
    program = "; ".join(["import sys", *imports, LOAD])
    command = [sys.executable, "-c", program, str(tiny_model)]
    job = subprocess.run(command, capture_output=True, text=True, timeout=180, check=False)
    assert job.stdout.split() == ["MsmtFnConfig", "MsmtFn", "CallProcessor"], job.stderr


@pytest.mark.slow
def test_a_module_of_the_network_may_be_what_imports_the_auto_classes() -> None:
    program = (
        "import msmtfn.model.network as ours, transformers as t; print(t.AutoModel._model_mapping[ours.MsmtFnConfig])"
    )
    job = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False)
    assert "msmtfn.model.network.MsmtFn" in job.stdout, job.stderr


@pytest.mark.parametrize("module", ["msmtfn.cli.score_daily", "msmtfn.features.prepare"])
def test_drivers_and_preparation_start_without_the_base_class_of_all_models(module: str) -> None:
    program = f"import sys, msmtfn, {module}; print('transformers.modeling_utils' in sys.modules)"
    job = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=180, check=False)
    assert job.stdout.split() == ["False"], job.stderr
