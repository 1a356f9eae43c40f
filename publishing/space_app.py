"""Writes with a language model in the browser: goes on from a prompt, or chats where the model has a chat template."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import gradio as gr
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TextIteratorStreamer

MODEL = "OWNER/NAME"
PLACE = {"revision": "COMMIT", "trust_remote_code": True}

tokenizer = AutoTokenizer.from_pretrained(MODEL, **PLACE)
model = AutoModelForCausalLM.from_pretrained(MODEL, **PLACE).eval()
CONTEXT = model.config.max_position_embeddings


def write(tokens: list[int], max_tokens: int, temperature: float, top_p: float) -> Iterator[tuple[str, str]]:
    """Yields the new text as far as it is, and what is to be said of the prompt."""
    if not tokens:
        raise gr.Error("The prompt is empty: write something for the model to go on from.")
    room = CONTEXT - max_tokens
    note = ""
    if len(tokens) > room:
        note = f"The model read only the last {room:,} of {len(tokens):,} tokens: its context has {CONTEXT:,}."
    input_ids = torch.tensor([tokens[-room:]])
    sampling = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_p": top_p}
    streamer = TextIteratorStreamer(tokenizer, skip_prompt=True, skip_special_tokens=True)

    def generate() -> None:
        try:
            model.generate(
                input_ids,
                attention_mask=torch.ones_like(input_ids),
                max_new_tokens=max_tokens,
                streamer=streamer,
                **sampling,
            )
        finally:
            streamer.end()

    with ThreadPoolExecutor(1) as thread:
        writing = thread.submit(generate)
        text = ""
        for piece in streamer:
            text += piece
            yield text, note
        writing.result()  # raises what went wrong there


def complete(prompt: str, max_tokens: int, temperature: float, top_p: float) -> Iterator[tuple[str, str]]:
    for text, note in write(tokenizer(prompt).input_ids, max_tokens, temperature, top_p):
        yield prompt + text, note


def chat(
    message: str, history: list[dict], max_tokens: int, temperature: float, top_p: float
) -> Iterator[tuple[str, str]]:
    """Older turns are left out, two by two, where the whole conversation is too long."""
    turns = [{"role": turn["role"], "content": text_of(turn["content"])} for turn in history]
    turns.append({"role": "user", "content": message})
    tokens = encoded(turns)
    left_out = 0
    while len(turns) > 1 and len(tokens) > CONTEXT - max_tokens:
        turns, left_out = turns[2:], left_out + 2
        tokens = encoded(turns)
    dropped = f"The model did not read the first {left_out} messages: its context has {CONTEXT:,} tokens. "
    for text, note in write(tokens, max_tokens, temperature, top_p):
        yield text, (dropped if left_out else "") + note


def encoded(turns: list[dict]) -> list[int]:
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    return tokenizer(text, add_special_tokens=False).input_ids


def text_of(content: str | list[dict]) -> str:
    """Gradio keeps a message as a text, or as parts."""
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


def sliders() -> list[gr.Slider]:
    return [
        gr.Slider(1, CONTEXT // 2, min(200, CONTEXT // 2), step=1, label="At most so many new tokens"),
        gr.Slider(0, 2, 0.8, step=0.05, label="Temperature (0: always the likeliest token)"),
        gr.Slider(0.05, 1, 0.95, step=0.05, label="Top-p"),
    ]


with gr.Blocks(title=MODEL) as demo:
    gr.Markdown(f"# [{MODEL}](https://huggingface.co/{MODEL}/tree/{PLACE['revision']})")
    if tokenizer.chat_template:
        remark = gr.Markdown()
        gr.ChatInterface(chat, additional_inputs=sliders(), additional_outputs=[remark], api_name="chat")
    else:
        prompt = gr.Textbox(label="Prompt", lines=3)
        settings = sliders()
        button = gr.Button("Write", variant="primary")
        output = gr.Textbox(label="Text", lines=10)
        remark = gr.Markdown()
        button.click(complete, [prompt, *settings], [output, remark], api_name="complete")

if __name__ == "__main__":
    demo.launch()
