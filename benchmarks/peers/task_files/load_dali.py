"""Loads images with NVIDIA DALI on the CPU: fused decode and random crop, bilinear scaling, flip; uint8 output."""

from __future__ import annotations

import loading
import nvidia.dali as dali
from nvidia.dali import fn, types


def prepare(threads: int, folder: str):
    work = loading.read_work(folder)

    @dali.pipeline_def(batch_size=work.batch, num_threads=threads, device_id=None, seed=0)
    def pipeline():
        contents, labels = fn.readers.file(file_root=str(work.files), random_shuffle=True, name="files")
        # The accurate DCT is used, because evenkeel's decoder uses it, too.
        images = fn.decoders.image_random_crop(
            contents,
            device="cpu",
            random_area=list(loading.AREA),
            random_aspect_ratio=list(loading.ASPECT),
            num_attempts=10,
            use_fast_idct=False,
            adjust_orientation=False,
        )
        # Antialiasing is off, because DALI's triangular filter, which averages when it shrinks, costs more.
        images = fn.resize(images, size=[work.size, work.size], interp_type=types.INTERP_LINEAR, antialias=False)
        return fn.flip(images, horizontal=fn.random.coin_flip()), labels

    instance = pipeline()
    instance.build()
    work = loading.Work(work.task, work.folder, instance.reader_meta("files")["epoch_size"])
    batches = loading.repeat_epochs(lambda: [instance.run()])
    about = f"DALI {dali.__version__}, CPU, uint8 out, {threads} threads"
    return loading.serve_batches(batches, work, about, lambda batch: batch[0].as_array())
