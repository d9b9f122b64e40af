"""``qsim generate``: text behind a prompt, under any policy, as it is written."""

from __future__ import annotations

from collections.abc import Iterator

from precision.backends import BACKENDS
from qsim import strict_json
from qsim.commands.command import AddCommand, Arguments
from qsim.commands.quantization_options import add_quantization_options, quantized_ways

_TOKENS = 64


def add(command: AddCommand) -> None:
    parser = command("generate", _generate, "write text behind a prompt, each pass one token behind a cache")
    parser.add_argument("model", metavar="MODEL", help="a run, a checkpoint, a Hugging Face folder or a GGUF file")
    parser.add_argument("--prompt", required=True, metavar="TEXT")
    parser.add_argument("--tokens", type=int, metavar="N", help="at most (default 64, or what there is room for)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default: the likeliest")
    parser.add_argument("--top-k", type=int, metavar="K", help="draw from the K likeliest")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--until", action="append", default=[], metavar="TEXT", help="stop before it; may be repeated"
    )
    parser.add_argument("--policy", help="the model's own 16-bit format by default")
    parser.add_argument("--scheme", metavar="NAME", help="quantize linear layers so; see qsim quantizers")
    add_quantization_options(parser)
    parser.add_argument("--executor", choices=BACKENDS, default="numba", help="default numba")


def _generate(arguments: Arguments) -> int:
    from qsim.evaluation import Sampling, Way, encoded, generate, written
    from qsim.importing import open_model, own_format
    from qsim.policy import parse_policy

    sampling = Sampling(temperature=arguments.temperature, top_k=arguments.top_k, seed=arguments.seed)
    opened = open_model(arguments.model)
    way = Way(name="pre", model=opened, policy=parse_policy(arguments.policy or own_format(opened)))
    quantized, _ = quantized_ways(arguments, way, [] if arguments.scheme is None else [arguments.scheme])
    model = (quantized[0] if quantized else way).language_model(arguments.executor)
    prompt = encoded(model.tokenizer, arguments.prompt, model.vocabulary)
    room = max(1, min(_TOKENS, model.length - len(prompt) + 1))
    number = room if arguments.tokens is None else arguments.tokens
    tokens: list[int] = []
    pieces = written(model.tokenizer, _kept(generate(model, prompt, number, sampling), tokens), arguments.until)
    if arguments.json:
        text = "".join(pieces)
        policy = model.calculator.policy.name
        print(strict_json.dumps({"prompt": arguments.prompt, "text": text, "tokens": tokens, "policy": policy}))
        return 0
    for piece in pieces:
        print(piece, end="", flush=True)
    print()
    return 0


def _kept(tokens: Iterator[int], kept: list[int]) -> Iterator[int]:
    for token in tokens:
        kept.append(token)
        yield token
