"""Frozen dataclasses, one a concern. Each checks itself and goes to and from JSON.

A video model is one point on three axes (temporal, adaptation, compression) around an image tower. The way clips are cut
from videos and the way a model is trained stand in i2vlib.protocol.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from operator import attrgetter

from i2vlib.checked import Config, ConfigError, check_parameters  # noqa: F401, the last for the notebooks
from i2vlib.towers import CLIP_MEAN, CLIP_STD, IMAGENET_MEAN, IMAGENET_STD, SwinConfig, TowerConfig  # noqa: F401, all by one name

# The six weights of a ViT block that an adapter can stand at (Table 3 of ZeroI2V), in the order of the forward pass.
# "qkv" is one adapter shared in front of W_q, W_k, W_v; "q", "k", "v" are one each. "*_out" stand behind their weight.
PLACES = ("qkv", "q", "k", "v", "attn_out", "mlp_in", "mlp_out")
THREE_ADAPTERS = ("qkv", "attn_out", "mlp_in")
FOUR_ADAPTERS = ("qkv", "attn_out", "mlp_in", "mlp_out")
SIX_ADAPTERS = ("q", "k", "v", "attn_out", "mlp_in", "mlp_out")
AIM_PLACES = ("time_in", "time_out", "attn_out", "mlp")  # AIM's own: around attention over time, behind attention, beside MLP
ADAPTATIONS = ("frozen", "full", "heads", "linear", "gelu", "lora", "st_adapter", "aim")
SWIN_ADAPTATIONS = ("frozen", "full", "linear", "gelu")
MIXING = ("st_adapter", "aim")  # they read other frames

# The contexts that InTI's weight network reads (eq. 9-12 of InTI) and the compressions that it is compared with.
LEVELS = ("token", "cube", "frame", "global")
HALVING = ("inti", "mean", "linear", "conv")  # fuse pairs of frames: T halves at each site
DROPPING = ("tome", "sta")  # fewer tokens a frame: the grid of patches is lost

# What STDHA is compared with at no parameter and no multiply-add (ZeroI2V Tables 1 and 2a); i2vlib.temporal.shifts has them.
SHIFTS = ("class_token", "class_token_kv", "channel_kv", "channel_qkv", "patch")


@dataclass(frozen=True)
class TemporalConfig(Config):
    """Which frame each head reads, and the modules over time. None of them is naive, order-blind adaptation."""

    # STDHA (ZeroI2V eq. 7-9): one frame offset a head, 0 = spatial; () = all spatial. Behind a site of compression, where fewer
    # frames are left, a head whose offset reaches beyond them reads its own frame. Swin: stage by stage
    offsets: tuple[int, ...] = ()
    # learn what tells the frames' places apart: (1,T,D), zero at the start, added before ln_pre; with ModelConfig.upper, before
    # the first block that is adapted
    embedding: bool = False
    local: bool = False  # UniFormerV2's local modules, before attention and before MLP of every block
    global_blocks: int = 0  # UniFormerV2's global modules, one behind each of so many last blocks
    queries: bool = False  # HR QKV: the queries of heads with an offset move as well
    # class_token: before attention and before MLP | class_token_kv: inside attention | channel_kv and channel_qkv: in every head
    # patch: eight of nine patches read up to 4 frames away, in a circle of T
    shift: str = "none"
    folds: int = 12  # n, but with patch: a share 1/n of the channels, rounded down, reads each of the two neighbouring frames
    global_dropout: float = 0.0  # in the global modules' MLPs and those of EVL's decoder, behind the activation
    # patches of several frames, so that T/2 frames are in the tower. UniFormerV2's stem: every second frame with the one before
    # and after it; Swin: each pair of frames, as in Video Swin
    stem: bool = False
    evl: int = 0  # layers of EVL's decoder, which read so many last blocks of a frozen tower; the head reads it alone

    @property
    def modules(self) -> bool:
        """Whether there are weights over time: UniFormerV2's modules, a stem, EVL's decoder."""
        return bool(self.local or self.global_blocks or self.stem or self.evl)

    def check(self) -> None:
        self.need(self.global_blocks >= 0, "global_blocks", "0 or more")
        self.need(0 <= self.global_dropout < 1, "global_dropout", "from 0 to below 1")
        self.need(self.evl >= 0, "evl", "0 or more")
        self.need(self.global_blocks + self.evl > 0 or not self.global_dropout, "global_dropout", "0 without global_blocks")
        self.need(self.shift in ("none", *SHIFTS), "shift", ", ".join(("none", *SHIFTS)))
        self.need(self.shift == "none" or not any(self.offsets), "shift", "none with offsets: heads or a shift read other frames")
        self.need(any(self.offsets) or not self.queries, "queries", "false without an offset other than 0: no head moves")
        self.need(self.folds >= 2, "folds", "2 or more: two folds move")
        self.need(self.shift not in ("none", "patch") or self.folds == 12, "folds", f"12, the default, with shift {self.shift!r}")


@dataclass(frozen=True)
class AdaptationConfig(Config):
    """What is trained besides the head."""

    # frozen (linear probe) | full | heads (the weights of relocated heads) | linear (ZeroI2V eq. 11) | lora | gelu,
    # st_adapter and aim (GELU adapters and attention over time), which cannot be merged
    kind: str = "frozen"
    # where adapters stand, names from PLACES, with aim from AIM_PLACES; LoRA stands beside the weight of that place
    places: tuple[str, ...] = ()
    ratio: float = 0.25  # bottleneck width r*D, LoRA's rank; .25 is the best of the paper's Table 2(d)
    # s: 0.5 for K400/UCF101/HMDB51, 1 for SSv2 in the released settings; LoRA's α/ρ; AIM has it at mlp alone, ST-Adapter nowhere
    scale: float = 0.5
    dropout: float = 0.1  # on the bottleneck, on LoRA's input; in training only; ST-Adapter has none

    @property
    def adds(self) -> bool:
        """Whether there are weights that the tower does not have."""
        return self.kind not in ("frozen", "full")

    @property
    def merges(self) -> bool:
        """Whether what it adds can go into the tower's weights."""
        return self.kind not in ("gelu", "st_adapter", "aim")

    def check(self) -> None:
        self.need(self.kind in ADAPTATIONS, "kind", ", ".join(ADAPTATIONS))
        adapts = self.adds and self.kind != "heads"
        allowed = {"lora": SIX_ADAPTERS, "st_adapter": FOUR_ADAPTERS, "aim": AIM_PLACES}.get(self.kind, PLACES)
        self.need(bool(self.places) == adapts, "places",
                  f"one or more of {', '.join(allowed)}" if adapts else f"empty with kind {self.kind!r}")
        self.need(set(self.places) <= set(allowed) and len(set(self.places)) == len(self.places), "places",
                  f"distinct names out of {', '.join(allowed)} with kind {self.kind!r}")
        self.need(not ("qkv" in self.places and {"q", "k", "v"} & set(self.places)), "places",
                  "either the shared 'qkv' or separate 'q', 'k', 'v'")
        self.need("time_in" not in self.places or "time_out" in self.places, "places",
                  "'time_in' with 'time_out', without which there is no attention over time")
        self.need(0 < self.ratio <= 1, "ratio", "above 0, at most 1")
        self.need(0 <= self.dropout < 1, "dropout", "from 0 to below 1")


@dataclass(frozen=True)
class CompressionConfig(Config):
    """How many tokens survive. A site (5) acts where 5 blocks have run, in the papers' words after the 5th block."""

    kind: str = "none"  # none | inti | mean | linear (LinearPooling) | conv (ConvPooling) | tome | sta
    after: tuple[int, ...] = ()  # sites, in order; tome has none: it merges in every block
    levels: tuple[str, ...] = LEVELS  # inti: what its weights see, one or more of LEVELS
    fusion: str = "sep"  # inti: sep ([token; sum of the rest]) | add (sum of all) | cat (all side by side)
    head: str = "softmax"  # inti: softmax | sigmoid (the weights of a pair need not sum to 1) | attention
    start: str = "mean"  # conv: mean (the pair's) | random
    remove: int = 0  # r, tokens fewer a frame: at each block (tome) or site (sta)

    def check(self) -> None:
        kinds = ("none", *HALVING, *DROPPING)
        self.need(self.kind in kinds, "kind", ", ".join(kinds))
        sites = self.kind not in ("none", "tome")
        self.need(bool(self.after) == sites, "after", f"{'one or more sites' if sites else 'empty'} with kind {self.kind!r}")
        self.need(tuple(sorted(set(self.after))) == self.after and min(self.after, default=1) >= 1, "after",
                  "rising numbers of blocks, each 1 or more")
        self.need(bool(self.levels) and set(self.levels) <= set(LEVELS) and len(set(self.levels)) == len(self.levels), "levels",
                  f"one or more of {', '.join(LEVELS)}")
        self.need(self.fusion in ("sep", "add", "cat"), "fusion", "sep, add or cat")
        self.need(self.head in ("softmax", "sigmoid", "attention"), "head", "softmax, sigmoid or attention")
        self.need(self.start in ("mean", "random"), "start", "mean or random")
        self.need(self.remove >= 0, "remove", "0 or more")
        self.need(self.remove == 0 or self.kind in DROPPING, "remove", f"0 with kind {self.kind!r}")
        for name, only in (("levels", "inti"), ("fusion", "inti"), ("head", "inti"), ("start", "conv")):
            default = type(self).__dataclass_fields__[name].default
            self.need(self.kind == only or getattr(self, name) == default, name, f"{default!r} with kind {self.kind!r}")


@dataclass(frozen=True)
class ModelConfig(Config):
    """One point of the cube temporal x adaptation x compression around a tower, and the head on top."""

    tower: TowerConfig = field(default_factory=TowerConfig)
    temporal: TemporalConfig = field(default_factory=TemporalConfig)
    adaptation: AdaptationConfig = field(default_factory=AdaptationConfig)
    frames: int = 8  # T
    classes: int = 0  # 0: no head, the model returns the mean of the frames' features
    head_dropout: float = 0.5
    compression: CompressionConfig = field(default_factory=CompressionConfig)
    # so many last blocks are adapted, read other frames and have sites of compression; those below stay the image model's,
    # frozen, so that their output may be kept (i2vlib.training.features). 0: all blocks
    upper: int = 0
    head_std: float = 0.02  # of the head's weights at the start
    drop_path: float = 0.0  # a clip's share of steps without the last block's branches; it grows from 0 in the first block

    def check(self) -> None:
        self.need(self.frames >= 1, "frames", "1 or more")
        self.need(self.classes >= 0, "classes", "0 (no head) or more")
        self.need(0 <= self.upper <= self.tower.layers, "upper", f"0 (all) to the tower's {self.tower.layers} blocks")
        self.need(0 <= self.head_dropout < 1, "head_dropout", "from 0 to below 1")
        self.need(self.head_std > 0, "head_std", "more than 0")
        self.need(0 <= self.drop_path < 1, "drop_path", "from 0 to below 1")
        self._check_swin()
        offsets, heads, frames = self.temporal.offsets, self.tower.all_heads, self.frames_at(0)
        if offsets and len(offsets) != heads:
            raise ConfigError(f"ModelConfig.temporal.offsets has {len(offsets)} entries: allowed is one a head, {heads}")
        for i, offset in enumerate(offsets):
            if abs(offset) >= frames:
                raise ConfigError(f"ModelConfig.temporal.offsets[{i}] = {offset}: with {frames} frames allowed is "
                                  f"{1 - frames} to {frames - 1}; beyond that the head reads no other frame")
        if self.adaptation.kind == "heads" and not any(offsets):
            raise ConfigError("ModelConfig.adaptation.kind = 'heads' trains relocated heads: temporal.offsets has none but 0")
        self._check_shift()
        adapted = self.tower.layers - self.lower
        for name, count in (("global_blocks", self.temporal.global_blocks), ("evl", self.temporal.evl)):
            if count > adapted:
                raise ConfigError(f"ModelConfig.temporal.{name} = {count}: allowed is up to the {adapted} blocks that are "
                                  "adapted")
        self._check_compression()
        self._check_rivals()

    def _check_swin(self) -> None:
        """Refuse what this library has for plain ViTs alone."""
        temporal, adaptation = self.temporal, self.adaptation
        wrong = {
            "compression.kind": self.compression.kind != "none" and "sites of compression fuse or drop tokens of one grid",
            "temporal.shift": temporal.shift != "none" and "shifts are for class tokens, or compared on plain ViTs alone",
            "temporal.queries": temporal.queries and "the paper relocates k and v in it, no queries",
            "temporal.embedding": temporal.embedding and "it has no positions but those within a window",
            "temporal.local": temporal.local and "UniFormerV2's modules are for a class token and its patches",
            "temporal.global_blocks": temporal.global_blocks and "UniFormerV2's modules are for a class token and its patches",
            "temporal.evl": temporal.evl and "EVL's decoder reads blocks of one width",
            "adaptation.kind": adaptation.kind not in SWIN_ADAPTATIONS and f"allowed is {', '.join(SWIN_ADAPTATIONS)}",
            "adaptation.places": not set(adaptation.places) <= set(FOUR_ADAPTERS) and f"allowed are {', '.join(FOUR_ADAPTERS)}",
            "upper": self.upper and "blocks lie in stages, and all are adapted"}
        for name, reason in wrong.items() if isinstance(self.tower, SwinConfig) else ():
            if reason:
                value = attrgetter(name)(self)
                raise ConfigError(f"ModelConfig.{name} = {value!r} with a Swin tower: {reason}")

    def _check_shift(self) -> None:
        tower, temporal = self.tower, self.temporal
        channels = tower.width // tower.heads if temporal.shift.startswith("channel") else tower.width
        if temporal.shift not in ("none", "patch") and channels < temporal.folds:
            raise ConfigError(f"ModelConfig.temporal.folds = {temporal.folds}: {temporal.shift} moves 1/{temporal.folds} of "
                              f"{channels} channels{' a head' if channels < tower.width else ''}, less than one: allowed is 2 to "
                              f"{channels}")

    def _check_compression(self) -> None:
        compression, frames = self.compression, self.frames_at(0)
        for site in compression.after:
            if site > self.tower.layers:
                raise ConfigError(f"ModelConfig.compression.after has {site}: the tower has {self.tower.layers} blocks")
            if site <= self.lower:
                raise ConfigError(f"ModelConfig.compression.after has {site}: allowed is more than {self.lower}, the blocks that "
                                  f"stay as they are with upper = {self.upper}")
            if compression.kind in HALVING:
                if frames % 2:
                    multiple = 2 ** (len(compression.after) + self.temporal.stem)
                    raise ConfigError(f"ModelConfig.compression.after: {frames} frame(s) arrive after block {site}: allowed is "
                                      f"an even number, so frames a multiple of {multiple}")
                frames //= 2
        if compression.kind in DROPPING and self.tower.registers:
            raise ConfigError(f"ModelConfig.compression.kind = {compression.kind!r} with {self.tower.registers} register(s): it "
                              "would merge or drop them as if they were patches")
        temporal = self.temporal
        mixing = {"temporal.local": temporal.local, "temporal.queries": temporal.queries,
                  "temporal.shift": temporal.shift.startswith(("channel", "patch")),
                  f"adaptation.kind = {self.adaptation.kind!r}": self.adaptation.kind in MIXING}
        if compression.kind in DROPPING and any(mixing.values()):
            name = next(name for name, there in mixing.items() if there)
            raise ConfigError(f"ModelConfig.{name} with compression {compression.kind!r}: it reads one place in several "
                              "frames, and the tokens no longer have one place")
        if self.tokens_at(self.tower.layers) < 2:
            raise ConfigError(f"ModelConfig.compression.remove = {compression.remove}: {self.tower.tokens} tokens do not last")

    def _check_rivals(self) -> None:
        temporal, adaptation = self.temporal, self.adaptation
        if temporal.stem and (self.frames % 2 or self.upper):
            raise ConfigError(f"ModelConfig.temporal.stem with frames = {self.frames}, upper = {self.upper}: allowed is an even "
                              "number of frames, of which every second is in the tower, and upper 0: no block below it is kept")
        if adaptation.kind == "aim" and (temporal.local or temporal.shift == "class_token"):
            raise ConfigError(f"ModelConfig.temporal.{'local' if temporal.local else 'shift'} with adaptation 'aim': it stands "
                              "before each sublayer, and AIM's block has three")
        own = (temporal.local, temporal.global_blocks, any(temporal.offsets), temporal.shift != "none", temporal.embedding,
               temporal.stem, adaptation.kind != "frozen", self.compression.kind != "none", self.drop_path)
        if temporal.evl and any(own):
            raise ConfigError(f"ModelConfig.temporal.evl = {temporal.evl} reads an image tower that stays as it is: allowed is "
                              "adaptation 'frozen' and no other temporal field, compression or drop_path")

    @property
    def lower(self) -> int:
        """The first blocks that nothing is added to."""
        return self.tower.layers - self.upper if self.upper else 0

    def frames_at(self, block: int) -> int:
        """T where so many blocks have run, behind a site that may be there."""
        halved = sum(site <= block for site in self.compression.after) if self.compression.kind in HALVING else 0
        return self.frames // 2 ** (halved + self.temporal.stem)

    def tokens_at(self, block: int) -> int:
        """N where so many blocks have run, behind a site that may be there."""
        tokens, compression = self.tower.tokens, self.compression
        for site in compression.after if compression.kind == "sta" else ():
            tokens -= compression.remove if site <= block else 0
        for _ in range(max(0, block - self.lower) if compression.kind == "tome" else 0):
            tokens -= min(compression.remove, (tokens - 1) // 2)  # ToMe merges half of the tokens at most
        return tokens
