"""Former name of `graph`; goes when its last caller has changed."""

from abpn_lib.files import ModelError as ModelError
from abpn_lib.tflite.graph import *  # noqa: F403
