"""clean-fid's distance of two folders in torch-fidelity's network, as benchmarks/fid_peers.py asks.

python clean_fid.py WEIGHTS REAL FAKE      prints the distance
"""

import sys

import torch
from cleanfid import fid
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

network = FeatureExtractorInceptionV3(
    "inception-v3-compat", ["2048"], feature_extractor_weights_path=sys.argv[1]
)
LAYERS = (
    *("Conv2d_1a_3x3", "Conv2d_2a_3x3", "Conv2d_2b_3x3", "MaxPool_1", "Conv2d_3b_1x1"),
    *("Conv2d_4a_3x3", "MaxPool_2", "Mixed_5b", "Mixed_5c", "Mixed_5d", "Mixed_6a", "Mixed_6b"),
    *("Mixed_6c", "Mixed_6d", "Mixed_6e", "Mixed_7a", "Mixed_7b", "Mixed_7c", "AvgPool"),
)


@torch.no_grad()
def features(images):
    """(B, 2048) of images that clean-fid has resized, in 0 to 255."""
    maps = (images - 128) / 128
    for name in LAYERS:
        maps = getattr(network, name)(maps)
    return maps.flatten(1)


print(
    fid.compute_fid(
        *sys.argv[2:],
        mode="clean",
        custom_feat_extractor=features,
        device=torch.device("cpu"),
        num_workers=0,
        verbose=False,
        use_dataparallel=False,
    )
)
