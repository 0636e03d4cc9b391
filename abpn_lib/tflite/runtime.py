"""Former name of `upscaler` and `images`; goes when its last caller has changed."""

from abpn_lib.files import InputError as InputError
from abpn_lib.files import ModelError as ModelError
from abpn_lib.tflite.images import *  # noqa: F403
from abpn_lib.tflite.interpreter import Kernels as Kernels
from abpn_lib.tflite.upscaler import *  # noqa: F403
