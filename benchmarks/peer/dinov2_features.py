"""Features of facebookresearch's own DINOv2 code, as benchmarks/fid_peers.py asks for them.

python dinov2_features.py FOLDER      writes dinov2.pth (random) and features.pt of inputs.pt there
"""

import sys
from pathlib import Path

import torch
from dinov2.models.vision_transformer import vit_small

folder = Path(sys.argv[1])
torch.manual_seed(0)
network = vit_small(patch_size=14, img_size=518, init_values=1.0, block_chunks=0).eval()
for weight in network.parameters():
    if weight.ndim > 1:
        weight.data.normal_(0, 0.05)
torch.save(network.state_dict(), folder / "dinov2.pth")
with torch.inference_mode():
    torch.save(network(torch.load(folder / "inputs.pt")), folder / "features.pt")
