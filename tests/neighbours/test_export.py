"""Compiled and exported: one graph, no recompilation while decoding, and the model's numbers at other shapes."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter
from transformers import CompileConfig, DynamicCache, StaticCache
from transformers.exporters import DynamoConfig, DynamoExporter, OnnxConfig, OnnxExporter
from transformers.integrations import executorch

from modeling_gpt_scratch.modeling_gpt_scratch import CACHE_NAME
from tests.modeling.comparison import (
    CLOSE,
    assert_same_gradients,
    cache_of,
    gradients,
    loss_and_gradients,
    pack,
    random_ids,
)

# Compiled


@pytest.fixture(autouse=True)
def _forget_compiled_graphs():
    torch._dynamo.reset()


def compiled_inputs(case: str) -> dict:
    input_ids = random_ids(2, 9)
    mask = torch.ones_like(input_ids)
    mask[0, :4] = 0
    return {
        "ids": {"input_ids": input_ids},
        "padding": {"input_ids": input_ids, "attention_mask": mask},
        "packed": {"input_ids": input_ids, "position_ids": pack([5, 4]).expand(2, -1)},
        "labels": {"input_ids": input_ids, "labels": input_ids, "use_cache": False},
        "skip_logits": {"input_ids": input_ids, "labels": input_ids, "use_cache": False, "skip_logits": True},
    }[case]


@pytest.mark.parametrize("case", ["ids", "padding", "packed", "labels", "skip_logits"])
def test_compiled_in_one_graph_equals_eager(case, tiny_model):
    model, inputs = tiny_model(), compiled_inputs(case)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    outputs, expected = compiled(**inputs), model(**inputs)
    assert set(outputs) == set(expected)
    if expected.logits is not None:
        torch.testing.assert_close(outputs.logits, expected.logits, **CLOSE)
    if expected.loss is not None:
        torch.testing.assert_close(outputs.loss, expected.loss, **CLOSE)
        expected_gradients = loss_and_gradients(model, **inputs)[1]
        model.zero_grad()
        outputs.loss.backward()
        assert_same_gradients(gradients(model), expected_gradients)


@torch.no_grad()
def test_compiled_decoding_with_a_static_cache_equals_full_forward(tiny_model):
    model, input_ids = tiny_model(), random_ids(1, 12)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    cache = StaticCache(config=model.config, max_cache_len=16)
    logits = [model(input_ids[:, :8], past_key_values=cache).logits]
    logits += [compiled(token, past_key_values=cache).logits for token in input_ids[:, 8:].split(1, dim=1)]
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids).logits, **CLOSE)


@torch.no_grad()
def test_decoding_with_a_static_cache_is_compiled_once(tiny_model):
    model, input_ids, counter = tiny_model(), random_ids(2, 40), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    cache = StaticCache(config=model.config, max_cache_len=48)
    logits = [model(input_ids[:, :8], past_key_values=cache).logits]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for token in input_ids[:, 8:].split(1, dim=1):
            logits.append(compiled(token, past_key_values=cache).logits)
    assert counter.frame_count == 1
    torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids).logits, **CLOSE)


@torch.no_grad()
def test_decoding_a_padded_batch_with_a_mask_of_the_caches_length_is_compiled_once(tiny_model):
    model, input_ids, counter = tiny_model(), random_ids(2, 40), CompileCounter()
    mask = torch.ones(2, 48, dtype=torch.long)
    mask[0, :4] = 0
    compiled = torch.compile(model, fullgraph=True, backend=counter)
    cache = StaticCache(config=model.config, max_cache_len=48)
    logits = [model(input_ids[:, :8], attention_mask=mask, past_key_values=cache).logits]
    with torch._dynamo.config.patch(error_on_recompile=True):
        for token in input_ids[:, 8:].split(1, dim=1):
            logits.append(compiled(token, attention_mask=mask, past_key_values=cache).logits)
    assert counter.frame_count == 1
    expected = model(input_ids, attention_mask=mask[:, :40]).logits
    seen = mask[:, :40].bool()
    torch.testing.assert_close(torch.cat(logits, dim=1)[seen], expected[seen], **CLOSE)


@torch.no_grad()
def test_a_model_compiled_for_all_shapes_takes_other_sizes_in_the_same_graph(tiny_model):
    model, counter = tiny_model(), CompileCounter()
    compiled = torch.compile(model, fullgraph=True, backend=counter, dynamic=True)
    for batch_size, length in ((2, 9), (3, 12), (5, 30), (4, 17)):
        input_ids = random_ids(batch_size, length)
        logits = compiled(input_ids, use_cache=False).logits
        torch.testing.assert_close(logits, model(input_ids).logits, **CLOSE)
    assert counter.frame_count == 1


@pytest.mark.parametrize("batch_size", [1, 3])
def test_generate_compiles_its_decoding_step_once_for_all_lengths(batch_size, tiny_model):
    model, graphs = tiny_model(pad_token_id=0), []

    def count(graph, inputs):
        graphs.append(graph)
        return graph.forward

    settings = CompileConfig(fullgraph=True, backend=count, mode=None)
    settings._compile_all_devices = True  # `generate` compiles on accelerators only, unless told so
    for length in (5, 9):
        input_ids = random_ids(batch_size, length)
        mask = torch.ones_like(input_ids)
        mask[0, :2] = 0
        inputs = {"input_ids": input_ids, "attention_mask": mask, "max_length": 40, "do_sample": False}
        expected = model.generate(**inputs)
        with torch._dynamo.config.patch(error_on_recompile=True):
            tokens = model.generate(**inputs, cache_implementation="static", compile_config=settings)
        assert torch.equal(tokens, expected)
    assert len(graphs) == 1


@pytest.mark.slow  # inductor: about 10 s
def test_generate_with_the_default_compiler_gives_the_same_tokens(tiny_model):
    model, input_ids = tiny_model(pad_token_id=0), random_ids(2, 7)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    options = {"max_new_tokens": 12, "do_sample": False}
    settings = CompileConfig(fullgraph=True, mode="default")
    settings._compile_all_devices = True
    tokens = model.generate(**inputs, **options, cache_implementation="static", compile_config=settings)
    assert torch.equal(tokens, model.generate(**inputs, **options))


# Exported


def padded_inputs(batch_size: int, length: int) -> dict[str, torch.Tensor]:
    input_ids = random_ids(batch_size, length)
    mask = torch.ones_like(input_ids)
    mask[0, : length // 3] = 0
    return {"input_ids": input_ids, "attention_mask": mask}


def assert_same_logits(actual: torch.Tensor, expected: torch.Tensor, attention_mask: torch.Tensor) -> None:
    seen = attention_mask.bool()
    torch.testing.assert_close(actual[seen], expected[seen], **CLOSE)


def test_exported_program_equals_the_model_at_other_lengths(tiny_model):
    model = tiny_model(use_cache=False)
    length = torch.export.Dim("length", min=2, max=64)
    program = torch.export.export(model, (random_ids(2, 9),), dynamic_shapes={"input_ids": {1: length}})
    input_ids = random_ids(2, 17)
    torch.testing.assert_close(program.module()(input_ids).logits, model(input_ids).logits, **CLOSE)


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_exported_program_equals_the_model_at_other_batch_sizes_with_padding(strict, tiny_model):
    model = tiny_model(use_cache=False)
    sizes = {0: torch.export.Dim("batch", min=1, max=8), 1: torch.export.Dim("length", min=2, max=64)}
    inputs = padded_inputs(2, 9)
    program = torch.export.export(
        model, (), inputs, dynamic_shapes=dict.fromkeys(inputs, sizes), strict=strict
    ).module()
    for batch_size, length in ((1, 64), (3, 17)):
        inputs = padded_inputs(batch_size, length)
        assert_same_logits(program(**inputs).logits, model(**inputs).logits, inputs["attention_mask"])


@pytest.mark.parametrize("strict", [True, False], ids=["strict", "not strict"])
def test_a_program_exported_with_a_static_cache_decodes_like_the_model(strict, tiny_model):
    model = tiny_model()
    model.generation_config.cache_implementation = "static"
    exportable = executorch.TorchExportableModuleForDecoderOnlyLM(model, batch_size=1, max_cache_len=32)
    program = exportable.export(input_ids=torch.tensor([[5]]), cache_position=torch.tensor([0]), strict=strict).module()
    for length in (9, 20):  # the second text starts over in the same cache
        input_ids = random_ids(1, length)
        logits = [
            program(input_ids=input_ids[:, position : position + 1], cache_position=torch.tensor([position]))
            for position in range(length)
        ]
        torch.testing.assert_close(torch.cat(logits, dim=1), model(input_ids).logits, **CLOSE)


def test_a_program_exported_with_a_dynamic_cache_fills_the_cache(tiny_model):
    model, inputs = tiny_model(), padded_inputs(2, 9)
    program = executorch.export_with_dynamic_cache(model, inputs["input_ids"], inputs["attention_mask"]).module()
    outputs = program(**inputs, **{CACHE_NAME: DynamicCache(config=model.config)}, use_cache=True)
    assert_same_logits(outputs.logits, model(**inputs).logits, inputs["attention_mask"])
    assert cache_of(outputs).get_seq_length() == 9


def test_the_librarys_exporter_gives_a_program_for_all_sizes(tiny_model):
    model = tiny_model(use_cache=False)
    exported = DynamoExporter().export(model, padded_inputs(2, 9), config=DynamoConfig(dynamic=True))
    program = getattr(exported, "program", exported).module()  # from 5.2x on, an object that holds the program
    inputs = padded_inputs(3, 17)
    assert_same_logits(program(**inputs).logits, model(**inputs).logits, inputs["attention_mask"])


@pytest.mark.parametrize("use_cache", [False, True], ids=["no cache", "cache"])
def test_an_onnx_file_equals_the_model_at_another_batch_size_and_length(use_cache, tiny_model, tmp_path):
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    model = tiny_model(use_cache=use_cache)
    exported = OnnxExporter().export(model, padded_inputs(2, 9), config=OnnxConfig(dynamic=True))
    if hasattr(exported, "save_pretrained"):
        exported.save_pretrained(tmp_path)
    else:  # before 5.2x, torch's own object
        exported.save(tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    inputs = padded_inputs(3, 17)
    names = [output.name for output in session.get_outputs()]
    outputs = dict(
        zip(names, session.run(None, {name: tensor.numpy() for name, tensor in inputs.items()}), strict=True)
    )
    expected = model(**inputs)
    # float32 on CPU, once more: kernels of another library, which sum in another order too.
    assert_same_logits(torch.from_numpy(outputs["logits"]), expected.logits, inputs["attention_mask"])
    assert len(names) == (1 + 2 * 2 if use_cache else 1)
    if use_cache:
        keys = torch.from_numpy(outputs[f"{CACHE_NAME}.layers.1.keys"])
        seen = inputs["attention_mask"].bool()
        expected_keys = cache_of(expected).layers[1].keys
        torch.testing.assert_close(keys.transpose(1, 2)[seen], expected_keys.transpose(1, 2)[seen], **CLOSE)
