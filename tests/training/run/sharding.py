"""FSDP2 without accelerators: processes on CPUs that Accelerate takes for several GPUs, which shard their weights."""

import os
from pathlib import Path
from unittest import mock

import yaml
from accelerate import PartialState
from accelerate.utils import DistributedType

LAUNCH_FILE = Path(__file__).parents[3] / "configuration" / "launch" / "fsdp2.yaml"


def shard_on_cpus() -> None:
    """Makes this process, and those forked from it, one that `accelerate launch` has started with `LAUNCH_FILE`.

    All of Accelerate, torch and the library is real but for two answers: that CPUs with gloo are several GPUs, and that
    the run is not meant for CPUs.
    """
    fsdp = yaml.safe_load(LAUNCH_FILE.read_text(encoding="utf-8"))["fsdp_config"]
    names = {
        "fsdp_version": "FSDP_VERSION",
        "fsdp_auto_wrap_policy": "FSDP_AUTO_WRAP_POLICY",
        "fsdp_transformer_layer_cls_to_wrap": "FSDP_TRANSFORMER_CLS_TO_WRAP",
        "fsdp_reshard_after_forward": "FSDP_RESHARD_AFTER_FORWARD",
        "fsdp_cpu_ram_efficient_loading": "FSDP_CPU_RAM_EFFICIENT_LOADING",
        "fsdp_state_dict_type": "FSDP_STATE_DICT_TYPE",
    }
    os.environ |= {names[name]: str(value) for name, value in fsdp.items()}
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "ACCELERATE_TORCH_DEVICE": "cpu"}
    mock.patch.object(PartialState, "_prepare_backend", return_value=("gloo", DistributedType.MULTI_GPU)).start()
    mock.patch("training.run.lifecycle.precision_arguments", return_value={"use_cpu": False}).start()
