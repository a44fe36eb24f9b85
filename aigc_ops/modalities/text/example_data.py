"""Small datasets of generated texts, on which text families are tested."""

from aigc_ops.modalities.text.model import TextData


def example_data() -> dict[str, TextData]:
    """Return 32 answers with their prompts, and 32 documents."""
    answers = [f"Answer {index}, 你好 😀" for index in range(32)]
    return {
        "dialogue": TextData(answers, ["What?"] * 32),
        "documents": TextData([f"Document {index}." for index in range(32)]),
    }
