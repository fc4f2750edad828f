"""Ask two models for answers under thirty schemas, and let jsonschema, which had no part in them, say which are valid.

    python tests/edge/constrained_answers.py [--answers 300] [--limit 400] [--verbose]

The models are fadinho, which has seen little JSON, and a tiny random one, which has seen nothing at all. An answer that
ended by itself must be valid; one that the token limit cut must say so. Prints a line for each model, and what was wrong.
"""

import argparse
import itertools
import json
import sys
import tempfile
import time
from collections import Counter
from decimal import Decimal
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

sys.path.insert(0, str(Path(__file__).parents[1]))
from amalia_edge import store
from amalia_edge.model import LoadConfig, Model
from amalia_edge.sampler import SamplingConfig
from amalia_edge.schema import JsonSchema
from models import tiny_model

QUESTION = "Fala-me de um barco e do mar."
WORD = {"type": "string", "minLength": 1, "maxLength": 24}
PLACE = {"type": "object", "properties": {"nome": WORD, "andar": {"type": "integer", "minimum": -2, "maximum": 9}}}
TREE = {
    "$ref": "#/$defs/ramo",
    "$defs": {
        "ramo": {
            "type": "object",
            "properties": {"folha": WORD, "ramos": {"type": "array", "items": {"$ref": "#/$defs/ramo"}, "maxItems": 2}},
            "required": ["folha"],
            "additionalProperties": False,
        }
    },
}


def of(properties: dict[str, Any], **more: Any) -> dict[str, Any]:
    """Give the schema of an object that has just these properties."""
    return {
        "type": "object", "properties": properties, "required": list(properties), "additionalProperties": False, **more,
    }  # fmt: skip


SCHEMAS: list[dict[str, Any]] = [
    of({"título": WORD}),
    of({"nome": WORD, "idade": {"type": "integer", "minimum": 0, "maximum": 120}}),
    of({"aberto": {"type": "boolean"}, "motivo": {"type": ["string", "null"], "maxLength": 30}}),
    of({"cor": {"enum": ["azul", "amarelo", "vermelho", "não sei"]}}),
    of({"nota": {"type": "number", "minimum": 0, "maximum": 20, "multipleOf": 0.5}}),
    of({"preço": {"type": "number", "exclusiveMinimum": 0, "maximum": 999.99, "multipleOf": 0.01}}),
    of({"código": {"type": "string", "pattern": "^[0-9]{4}-[0-9]{3}$"}}),
    of({"matrícula": {"type": "string", "pattern": "^[A-Z]{2}-[0-9]{2}-[A-Z]{2}$"}}),
    of({"saudação": {"type": "string", "pattern": "^(Olá|Bom dia|Boa tarde), [a-zãáâàçéêíóõôú]{1,12}!$"}}),
    of({"contém": {"type": "string", "pattern": "mar", "maxLength": 30}}),
    of({"dia": {"type": "string", "format": "date"}, "hora": {"type": "string", "format": "time", "maxLength": 15}}),
    of({"correio": {"type": "string", "format": "email", "maxLength": 40}}),
    of({"endereço": {"type": "string", "format": "ipv4"}, "chave": {"type": "string", "format": "uuid"}}),
    of({"lista": {"type": "array", "items": WORD, "minItems": 1, "maxItems": 4}}),
    of({"matriz": {"type": "array", "minItems": 2, "maxItems": 2,
                   "items": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 9}, "maxItems": 3}}}),
    of({"par": {"type": "array", "prefixItems": [WORD, {"type": "boolean"}], "items": False, "minItems": 2}}),
    of({"de": {"$ref": "#/$defs/lugar"}, "para": {"$ref": "#/$defs/lugar"}}, **{"$defs": {"lugar": PLACE | {"additionalProperties": False}}}),
    of({"valor": {"anyOf": [{"type": "integer", "minimum": 1, "maximum": 3}, {"const": "muitos"}, {"type": "null"}]}}),
    of({"forma": {"oneOf": [of({"tipo": {"const": "círculo"}, "raio": {"type": "integer", "minimum": 1, "maximum": 99}}),
                            of({"tipo": {"const": "quadrado"}, "lado": {"type": "integer", "minimum": 1, "maximum": 99}})]}}),
    of({"fixo": {"const": {"a": [1, "dois", None, True], "b": 0.25}}}),
    of({"opção": {"allOf": [{"type": "string", "maxLength": 20}, {"pattern": "^[a-z]+$"}]}}),
    of({"aspas \" e \\ e /": WORD, "quebra\nde linha": {"type": "boolean"}}),
    of({"temperatura": {"type": "number", "minimum": -89.2, "maximum": 56.7}}),  # as many decimals as the model likes
    of({"par": {"type": "integer", "minimum": -50, "maximum": 50, "multipleOf": 2}}),
    {"type": "object", "properties": {"um": {"type": "boolean"}, "dois": {"type": "null"}}, "minProperties": 1, "additionalProperties": False},
    {"type": "object", "patternProperties": {"^x_[a-z]{1,5}$": {"type": "boolean"}}, "additionalProperties": False, "maxProperties": 3},
    {"type": "array", "items": PLACE | {"required": ["nome"], "additionalProperties": False}, "maxItems": 3},
    {"enum": ["sim", "não", 1, 2.5, None, True, [], {"talvez": "é"}]},
    {"type": "string", "maxLength": 40},
    TREE,
]  # fmt: skip


def ask(model: Model, schema: dict[str, Any], seed: int, limit: int) -> tuple[str, str | None]:
    sampling = SamplingConfig(temperature=1.0, seed=seed, limit=limit, grammar=JsonSchema(schema))
    pieces = list(model.chat([{"role": "user", "content": QUESTION}], sampling))
    return "".join(piece.text for piece in pieces), pieces[-1].finish


def judge(schema: dict[str, Any], text: str, finish: str | None) -> str:
    """Name what an answer is: valid, cut by the limit, or wrong."""
    if finish == "length":
        return "length"
    try:
        exact = json.loads(json.dumps(schema), parse_float=Decimal)  # 8.04 is a multiple of 0.01, but not in floats
        answer = json.loads(text, parse_float=Decimal)
        Draft202012Validator(exact, format_checker=Draft202012Validator.FORMAT_CHECKER).validate(answer)
    except Exception as problem:
        return f"WRONG {type(problem).__name__}: {str(problem).splitlines()[0]}"
    return "valid" if finish == "stop" else f"WRONG finish {finish}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--answers", type=int, default=300)
    parser.add_argument("--limit", type=int, default=400)
    parser.add_argument("--verbose", action="store_true")
    told = parser.parse_args()
    wrong = 0
    with tempfile.TemporaryDirectory() as folder:
        paths = {"fadinho": store.find("fadinho"), "random": tiny_model(Path(folder) / "tiny.gguf", kind="Q8_0")}
        for name, path in paths.items():
            found: Counter[str] = Counter()
            started, tokens = time.perf_counter(), 0
            with Model.open(path, LoadConfig(context=1024, threads=2)) as model:
                rounds = itertools.islice(itertools.cycle(SCHEMAS), told.answers // len(paths))
                for seed, schema in enumerate(rounds):
                    text, finish = ask(model, schema, seed, told.limit)
                    verdict = judge(schema, text, finish)
                    found[verdict.split()[0]] += 1
                    tokens += len(model.vocabulary.encode(text))
                    if told.verbose or verdict not in ("valid", "length"):
                        print(f"{name} {seed:3} {verdict}: {text!r}")
            spent = time.perf_counter() - started
            counts = ", ".join(f"{count} {verdict}" for verdict, count in found.most_common())
            print(
                f"{name}: {sum(found.values())} answers, {counts} ({tokens / spent:.0f} tokens/s, masks included)",
                flush=True,
            )
            wrong += found["WRONG"]
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
