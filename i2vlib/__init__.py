"""Image-to-video adaptation: ZeroI2V and InTI, to learn, check and use."""

from i2vlib import adaptation, temporal
from i2vlib.classifier import VideoClassifier, build_model, merge
from i2vlib.config import (
                           FOUR_ADAPTERS,
                           SIX_ADAPTERS,
                           THREE_ADAPTERS,
                           AdaptationConfig,
                           ClipConfig,
                           ConfigError,
                           ModelConfig,
                           TemporalConfig,
                           TowerConfig,
                           TrainConfig,
                           check_parameters,
)
from i2vlib.data.video import VideoError, read_clip
from i2vlib.measure import Count, count
from i2vlib.presets import PRESETS, PROTOCOLS, TOWERS
from i2vlib.weights import WeightsError, checkpoint_info, load_checkpoint, save_checkpoint
from i2vlib.zeroi2v import load_zeroi2v, zeroi2v_state
