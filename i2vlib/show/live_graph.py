"""The two graphs of the live figure: pixels go in as they are decoded, and what a reader changes is an input.

A model has its offsets in its code; in these graphs they arrive with the clip, so that one small file answers for any of them.
Written with onnx and onnxscript, run by whatever runs ONNX.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from i2vlib.compression.weights import cascade, interpolation_weights
from i2vlib.data.transforms import normalised
from i2vlib.layers import as_clips
from i2vlib.protocol import ClipConfig
from i2vlib.show.embedded import head_offsets
from i2vlib.tower.classifier import VideoClassifier, merge, plain_blocks
from i2vlib.tower.export import OPSET
from i2vlib.tower.wrappers import bare_copy


class OffsetsGraph(nn.Module):
    """A model, its heads' offsets an input: (frames (B,T,S,S,3) uint8, offsets (h,) int64, embedding () float32) -> (B,classes).

    offsets: one a head, the same in every block, any integers; a head whose frame lies outside the clip reads its own. embedding:
    what the temporal embedding is multiplied by, 1 as trained, 0 as if there were none. The model given is left as it was.
    Raises ValueError as head_offsets does, for a model with compression or without a temporal embedding, and for adapters that
    do not merge.
    """

    def __init__(self, model: VideoClassifier, clip: ClipConfig):
        super().__init__()
        head_offsets(model)
        if model.config.compression.kind != "none" or not model.config.temporal.embedding:
            raise ValueError("allowed is a model with a temporal embedding and without compression")
        self.model, self.clip, self.given = merge(model).eval(), clip, []
        self.model.backbone.with_places = self.with_places
        for block in plain_blocks(self.model):
            block.attn.move = self.move  # instead of the one whose offsets are constants

    def forward(self, frames: Tensor, offsets: Tensor, embedding: Tensor) -> Tensor:
        self.given[:] = offsets, embedding
        return self.model(normalised(frames.movedim(-1, -3), self.clip))

    def with_places(self, x: Tensor, frames: int) -> Tensor:
        places = self.model.backbone.temporal_embedding[0, :, None]  # (T,1,D)
        return (as_clips(x, frames) + self.given[1] * places).flatten(0, 1)

    def move(self, qkv: Tensor, frames: int) -> Tensor:
        """q, k, v (B·T,N,3D): k and v of every head from the frame that it reads, which an index says."""
        heads = len(self.given[0])
        own = torch.arange(frames)[:, None]
        wanted = own + self.given[0]  # (T,h)
        read = torch.where((wanted >= 0) & (wanted < frames), wanted, own)
        q, *kv = qkv.unflatten(-1, (3, heads, -1)).unbind(2)  # (B·T,N,h,d) each
        places = (read * heads + torch.arange(heads)).flatten()
        packed = torch.stack(kv, 2).unflatten(0, (-1, frames)).movedim(-2, 2)  # (B,T,h,N,2,d)
        moved = packed.flatten(1, 2).index_select(1, places).unflatten(1, (frames, heads))
        k, v = moved.movedim(2, -2).flatten(0, 1).unbind(2)
        return torch.stack([q, k, v], 2).flatten(2)


class WeightsGraph(nn.Module):
    """A model that weighs frames: frames (B,T,S,S,3) uint8 -> (logits (B,classes), weight of each frame in the last (B,T,1+H·W)).

    The model given is left as it was. Raises ValueError where it weighs no frames.
    """

    def __init__(self, model: VideoClassifier, clip: ClipConfig):
        super().__init__()
        with interpolation_weights(model):  # refuses a model without any
            self.model, self.clip = bare_copy(model).eval(), clip

    def forward(self, frames: Tensor) -> tuple[Tensor, Tensor]:
        with interpolation_weights(self.model) as maps:
            logits = self.model(normalised(frames.movedim(-1, -3), self.clip))
        return logits, cascade(maps)


def graph_of(live: OffsetsGraph | WeightsGraph) -> bytes:
    """The bytes of its ONNX file: inputs frames, offsets, embedding or frames alone; outputs logits, weights; for any batch."""
    config, relocated = live.model.config, isinstance(live, OffsetsGraph)
    frames = torch.zeros(2, config.frames, *[config.tower.image_size] * 2, 3, dtype=torch.uint8)
    given = (frames, torch.zeros(config.tower.heads, dtype=torch.long), torch.ones(())) if relocated else (frames,)
    names = ["frames", "offsets", "embedding"][:len(given)]
    shapes = {name: {0: torch.export.Dim("batch", min=1)} if name == "frames" else None for name in names}
    with torch.no_grad():
        program = torch.export.export(live.eval(), given, dynamic_shapes=shapes, strict=False)
        graph = torch.onnx.export(program, dynamo=True, opset_version=OPSET, verbose=False, input_names=names,
                                  output_names=["logits", "weights"][:2 - relocated])
    return graph.model_proto.SerializeToString()
