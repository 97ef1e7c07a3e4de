"""llama.cpp's server with a tiny random model: `python llama_cpp_server.py FOLDER` makes it there, and writes the URL
to FOLDER/url once it listens. Its output is llama.cpp's log, whose threads write in the middle of others' lines.

Run by an interpreter that has xllamacpp and gguf. The model knows every byte as a token, so that its answers are noise
in which characters span tokens, and tokens are not whole characters.
"""

import sys
import time
from pathlib import Path

import gguf
import numpy as np
import xllamacpp

VOCABULARY = [b"<unk>", b"<s>", b"</s>", *(b"<0x%02X>" % byte for byte in range(256)), b" how", "▁so".encode()]
WIDTH, HEADS, LAYERS, HIDDEN = 32, 2, 1, 64
TEMPLATE = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant:"


def make_model(path: Path) -> None:
    """Make a one-layer Llama with random weights, the same each time."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(2048)
    writer.add_embedding_length(WIDTH)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(WIDTH // HEADS)
    writer.add_vocab_size(len(VOCABULARY))
    writer.add_tokenizer_model("llama")
    writer.add_token_list(VOCABULARY)
    writer.add_token_scores([0.0] * len(VOCABULARY))
    kinds = gguf.TokenType
    special = [kinds.UNKNOWN, kinds.CONTROL, kinds.CONTROL]
    writer.add_token_types([*special, *[kinds.BYTE] * 256, kinds.NORMAL, kinds.NORMAL])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template(TEMPLATE)
    draw = np.random.default_rng(7)

    def tensor(name: str, *shape: int) -> None:
        writer.add_tensor(name, draw.normal(0, 0.3, shape).astype(np.float32))

    tensor("token_embd.weight", len(VOCABULARY), WIDTH)
    for name in ("output_norm.weight", "blk.0.attn_norm.weight", "blk.0.ffn_norm.weight"):
        writer.add_tensor(name, np.ones(WIDTH, np.float32))
    tensor("output.weight", len(VOCABULARY), WIDTH)
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        tensor(f"blk.0.{name}.weight", WIDTH, WIDTH)
    tensor("blk.0.ffn_gate.weight", HIDDEN, WIDTH)
    tensor("blk.0.ffn_up.weight", HIDDEN, WIDTH)
    tensor("blk.0.ffn_down.weight", WIDTH, HIDDEN)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Serve until terminated."""
    path = Path(sys.argv[1]) / "tiny.gguf"
    make_model(path)
    params = xllamacpp.CommonParams()
    params.model.path = str(path)
    params.n_ctx = 2048
    params.hostnames, params.port, params.n_parallel = ["127.0.0.1"], 0, 4
    params.n_threads_http, params.cpuparams.n_threads = 4, 1
    server = xllamacpp.Server(params)
    fresh = path.with_name("url.new")
    fresh.write_text(server.listening_address)
    fresh.rename(path.with_name("url"))
    while True:
        time.sleep(3600)


if __name__ == "__main__":
    main()
