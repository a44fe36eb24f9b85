"""Inputs of texts."""

from tests.data.inputs.making import (
    ASKED,
    COMPANION,
    OTHER_COLUMN,
    TEXTS,
    Input,
    Read,
    Refused,
    at,
    both,
    chat,
    files,
    lines,
    names,
    numbered,
    pictures,
    table,
    these,
)

LONG = " ".join(numbered(150_000, "word{}"))
UNBROKEN = "".join(numbered(600_000, "{}"))[:3_000_000]

TEXT_INPUTS: list[Input] = [
    # Texts
    Input("lines of a `.txt`", at("a.txt", files(a__txt="\n".join(numbered(30)))), Read(30)),
    Input(
        "paragraphs of a `.txt`",
        at("a.txt", files(a__txt="\n\n".join(numbered(30, "one {}\ntwo")))),
        Read(30),
    ),
    Input(
        "a `.txt` with Windows' line ends",
        at("a.txt", files(a__txt="\r\n".join(numbered(30)))),
        Read(30),
    ),
    Input(
        "a `.txt` with a byte order mark",
        at("a.txt", files(a__txt="\ufeff" + "\n".join(numbered(30)))),
        Read(30),
    ),
    Input("a folder of `.md`", these({f"{i}.md": f"text {i}" for i in range(30)}), Read(30)),
    Input(
        "a folder of nothing but README files",
        these({f"{i}/README.md": f"text {i}" for i in range(30)}),
        Read(30),
    ),
    Input(
        "a `.txt` in UTF-16", at("a.txt", files(a__txt="text\n".encode("utf-16"))), Refused("a.txt")
    ),
    Input(
        "a `.txt` in Latin-1",
        files(a__txt="\n".join(numbered(30, "é{}")).encode("latin-1")),
        Refused("not UTF-8"),
    ),
    Input(
        "a `.txt` of which 1 % of the paragraphs repeat",
        at("a.txt", files(a__txt="\n\n".join(numbered(297, "one {}\ntwo") + ["one 0\ntwo"] * 3))),
        Read(297, left_out=3),
    ),
    Input(
        "a `.txt` twice in one file",
        at("a.txt", files(a__txt="\n".join(numbered(30) * 2))),
        Refused("--validation.max-duplicate-fraction 0.5", by_validation=True),
    ),
    Input(
        "a document of 1,003,854 characters among others",
        these({f"{i}.txt": f"text {i}" for i in range(30)} | {"x.txt": LONG[:1_003_854]}),
        Read(32, noted="cut into pieces of at most 1,000,000 characters"),
    ),
    Input(
        "a document of 3,000,000 characters without a space",
        these({f"{i}.txt": f"text {i}" for i in range(30)} | {"x.txt": UNBROKEN}),
        Read(33, noted="cut into pieces of at most 1,000,000 characters"),
    ),
    Input(
        "one long document a split, the layout of nanoGPT",
        these({"train/input.txt": LONG[:90_000], "val/input.txt": LONG[90_000:100_000]}),
        Read(34, noted="too few held-out texts"),
    ),
    Input(
        "one long document",
        at("a.txt", files(a__txt=LONG[:100_000])),
        Read(107, noted="too few held-out texts"),
    ),
    Input("an empty `.txt`", files(a__txt=""), Refused("split is empty")),
    *(
        Input(f"a `{name}` alone", these({name: "a,b\n1,2\n"}), Refused("is not a dataset"))
        for name in ("a.csv", "a.tsv", "a.json", "a.jsonl.gz", "a.jsonl.zst", "a.docx", "a.pdf")
    ),
    *(
        Input(
            f"a `{name}` beside a `.txt`",
            both(files(a__txt="\n".join(numbered(30))), these({name: "-"})),
            Refused("files that could be samples are not read"),
        )
        for name in ("b.csv", "b.json", "b.html", "b.docx", "b.pdf", "b.epub", "b.zip")
    ),
    # JSON lines and Parquet of texts
    Input(
        "JSON lines of `text`",
        lines("a.jsonl", [{"text": t} for t in numbered(30)]),
        Read(30, TEXTS),
    ),
    Input(
        "JSON lines beside README.md and LICENSE.txt",
        both(
            lines("a.jsonl", [{"text": t} for t in numbered(30)]),
            these({"README.md": "# Card\n", "LICENSE.txt": "-\n"}),
        ),
        Read(30, TEXTS, unread=(COMPANION,)),
    ),
    Input(
        "JSON lines of `prompt` and `text`",
        lines("a.jsonl", [{"prompt": f"Who {i}?", "text": f"Me {i}."} for i in range(30)]),
        Read(30, {"prompt": "prompt", **TEXTS}, prompt="Who 0?"),
    ),
    Input(
        "GSM8K: `question` and `answer`",
        lines("a.jsonl", [{"question": f"Who {i}?", "answer": f"Me {i}."} for i in range(30)]),
        Read(30, {"prompt": "question", "text": "answer"}, prompt="Who 0?"),
    ),
    Input(
        "Dolly: `instruction`, `context`, `response`, `category`",
        lines(
            "a.jsonl",
            [
                {"instruction": f"Sum {i}.", "context": "", "response": f"{i}.", "category": "qa"}
                for i in range(30)
            ],
        ),
        Read(
            30,
            {"prompt": "instruction", "context": "context", "text": "response"},
            unread=(OTHER_COLUMN,),
            prompt="Sum 0.",
        ),
    ),
    Input(
        "Alpaca: `instruction`, `input`, `output`",
        lines(
            "a.jsonl",
            [
                {"instruction": f"Say {i}.", "input": "in words", "output": f"{i}."}
                for i in range(30)
            ],
        ),
        Read(
            30,
            {"prompt": "instruction", "context": "input", "text": "output"},
            prompt="Say 0.\n\nin words",
        ),
    ),
    Input(
        "Alpaca as Parquet",
        table(
            "a.parquet",
            [
                {"instruction": f"Say {i}.", "input": "in words", "output": f"{i}."}
                for i in range(30)
            ],
        ),
        Read(
            30,
            {"prompt": "instruction", "context": "input", "text": "output"},
            prompt="Say 0.\n\nin words",
        ),
    ),
    *(
        Input(
            f"a prompt column that {kind} lacks",
            maker(
                f"a.{suffix}", [{"instruction": f"Say {i}.", "output": f"{i}."} for i in range(30)]
            ),
            Refused("'instuction' (data.prompt_column)"),
            {"prompt_column": "instuction", "text": {"column": "output"}},
        )
        for kind, suffix, maker in (("JSON", "jsonl", lines), ("Parquet", "parquet", table))
    ),
    Input(
        "OpenAI's `messages`",
        lines("a.jsonl", [chat(("user", f"Who {i}?"), ("assistant", "Me.")) for i in range(30)]),
        Read(30, {"messages": "messages"}, prompt="Who 0?"),
    ),
    Input(
        "`messages` with a system message",
        lines(
            "a.jsonl",
            [chat(("system", "Be kind."), ("user", f"{i}?"), ASKED[1]) for i in range(30)],
        ),
        Read(30, {"messages": "messages"}, prompt="0?"),
    ),
    Input(
        "`messages` as Parquet",
        table("a.parquet", [chat(("user", f"Who {i}?"), ASKED[1]) for i in range(30)]),
        Read(30, {"messages": "messages"}, prompt="Who 0?"),
    ),
    Input(
        "`messages` that end with a question",
        lines("a.jsonl", [chat(*ASKED, ("user", f"Why {i}?")) for i in range(9)]),
        Refused("the last message is not the assistant's"),
    ),
    Input(
        "`messages` with the role `developer`",
        lines("a.jsonl", [chat(("developer", "Be kind."), *ASKED) for _ in range(9)]),
        Refused("role 'developer' is not one of"),
    ),
    Input(
        "`messages` with content in parts",
        lines(
            "a.jsonl",
            [{"messages": [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}]}],
        ),
        Refused("expected a text"),
    ),
    Input(
        "ShareGPT: `conversations` of `from` and `value`",
        lines("a.jsonl", [{"conversations": [{"from": "human", "value": "Who?"}]}] * 9),
        Refused("found conversations"),
    ),
    Input(
        "JSON lines with a broken line",
        files(a__jsonl='{"text": "a"}\n{"text": \n'),
        Refused("not JSON"),
    ),
    Input("JSON lines of arrays", files(a__jsonl='["a"]\n["b"]\n'), Refused("not a JSON object")),
    Input(
        "a text that is a number",
        lines("a.jsonl", [*({"text": t} for t in numbered(30)), {"text": 5}]),
        Refused("a.jsonl line 31"),
    ),
    Input(
        "a text that is null",
        lines("a.jsonl", [*({"text": t} for t in numbered(30)), {"text": None}]),
        Refused("a.jsonl line 31"),
    ),
    Input(
        "prompts in some rows only",
        lines("a.jsonl", [{"text": "a"}, *({"text": t, "prompt": t} for t in numbered(30))]),
        Refused("a.jsonl line 1"),
    ),
    Input(
        "Parquet of texts with a column of topics",
        table("a.parquet", [{"text": t, "topic": "x"} for t in numbered(30)]),
        Read(30, TEXTS, unread=(OTHER_COLUMN,)),
    ),
    Input(
        "pictures beside texts",
        both(pictures(*names(20)), files(a__txt="\n".join(numbered(30)))),
        Read(20, unread=("not an image",)),
    ),
]
