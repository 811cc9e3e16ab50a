"""The configurations of `accelerate launch`: accelerate reads them, and they are what they say."""

import re
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import ClusterConfig, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from test_readme import commands

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "train" / "configs").iterdir())
LAUNCHES = [words for words in commands() if words[:2] == ["accelerate", "launch"]]
LAUNCHES += [words[1:] for words in commands() if words[1:3] == ["accelerate", "launch"]]


def comment_of(path: Path) -> str:
    """Join the comment that a configuration begins with."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_accelerate_reads_a_configuration_that_is_what_it_says(path: Path) -> None:
    assert path.suffix == ".yaml"
    config, said = load_config_from_file(str(path)), comment_of(path)
    assert isinstance(config, ClusterConfig) and config.num_machines == 1
    assert config.use_cpu is False, "with use_cpu accelerate leaves DeepSpeed out without a word"
    on_cpus = path.stem.endswith("_cpu")
    assert ("CPUs" in said) is on_cpus and ("DS_ACCELERATOR=cpu" in said) is on_cpus
    assert config.mixed_precision == ("no" if on_cpus else "bf16")
    assert ("bf16" in said) is not on_cpus
    several = str(config.distributed_type).split(".")[-1] in ("MULTI_GPU", "DEEPSPEED")
    assert (config.num_processes > 1) is several and several is ("One GPU" not in said)
    if on_cpus:
        assert config.num_processes == 2 and "Two processes" in said
    stage = config.deepspeed_config.get("zero_stage", 0)
    assert re.findall(r"ZeRO-(\d)", said) == ([str(stage)] if stage else [])
    assert path.stem.startswith(f"zero{stage}" if stage else ("ddp", "one_gpu"))
    if stage:
        parts = {config.deepspeed_config[f"offload_{x}_device"] for x in ("optimizer", "param")}
        assert ("cpu" in parts) is ("memory of the CPU" in said) is path.stem.endswith("offload")
        # without it accelerate wants pdsh and a file of hosts for more machines than one
        assert config.deepspeed_config["deepspeed_multinode_launcher"] == "standard"


def test_the_configurations_are_all_explained() -> None:
    page = (ROOT / "docs" / "training.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(\w+\.yaml)`", page))
    assert named == {path.name for path in CONFIGS}


@pytest.mark.parametrize("words", LAUNCHES, ids=" ".join)
def test_accelerate_knows_the_flags_of_the_documents(words: list[str]) -> None:
    """What stands before the script is accelerate's, and the configuration that is named exists."""
    numbered = [re.sub(r"^\$SLURM_\w+$", "2", word) for word in words[2:]]
    args = launch_command_parser().parse_args(numbered)
    assert (ROOT / args.training_script).is_file()
    assert args.config_file is None or (ROOT / args.config_file) in CONFIGS
    if args.num_machines is not None:
        assert args.main_process_ip and args.main_process_port and args.machine_rank is not None
        assert args.num_processes > args.num_machines, "processes of all machines together"


def test_there_are_commands_for_one_machine_and_for_more() -> None:
    joined = [" ".join(words) for words in LAUNCHES]
    for needed in ("zero2_cpu.yaml", "ddp.yaml", "--num_machines", "--machine_rank $SLURM"):
        assert any(needed in line for line in joined), needed
