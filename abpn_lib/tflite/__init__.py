"""Running and changing .tflite files: `graph`, `interpreter`, `upscaler`, `images`. None of them needs TensorFlow."""
