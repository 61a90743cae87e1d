"""What the backends with a pretrained encoder share: flags, windows, layers, precision, and the passes.

A window shorter than the others (a short track, the end of a long one) is heard at its own length,
never padded: these networks normalise and attend over the whole clip, so silence behind the sound would
change every frame of it. Frames are averaged while extracting, and written only with --frames.
"""
import argparse
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from extract_item_embeddings.engine import audio, extraction, weights
from harness import cli
from harness.errors import UsageError

PRECISIONS = ("fp32", "bf16", "fp16")


def layer(text):
    """argparse type of --layer: last, mean, all, or a whole number."""
    if text not in ("last", "mean", "all") and not text.isdecimal():
        raise argparse.ArgumentTypeError(f"must be last, mean, all or a number from 0, not {text}")
    return text if text.isalpha() else str(int(text))


def cut(samples, size, least=0):
    """(N,) -> (n, size) zero-filled windows one after the other, and the samples of sound in each, int (n,).

    The last window is kept if it holds at least `least` samples, or is the only one.
    """
    n = max(-(-len(samples) // size), 1)
    if n > 1 and len(samples) - (n - 1) * size < least:
        n -= 1
    windows = np.zeros((n, size), np.float32)
    windows.reshape(-1)[:min(len(samples), n * size)] = samples[:n * size]
    return windows, np.minimum(len(samples) - size * np.arange(n), size)


class Pretrained(extraction.Backend):
    """A backend whose model is filled from published weights. Subclasses add source, sizes, build and states.

    sizes() is asked first, with `self.files` found, and sets self.dim and self.depth (number of the last state);
    build() returns the model; states(x, wanted) maps (B, N) samples to {number: (B, T, D)} of the wanted states.
    """
    DEVICE, WINDOW, BATCH, FRAME_LEVEL = True, 30.0, 8, "the frames that are averaged"
    PACKAGES = ("torch", "transformers")
    LAYERED = True   # has a choice of layers
    LAST = 0         # number of the last state of the published model
    LAYER = "last"   # of --layer, unless it is given; a number where the authors recommend one
    MILLIONS, DIGITS = None, 1  # parameters of the published model in millions, and to how many decimals
    pool_of_threads = None

    @classmethod
    def add_flags(cls, parser):
        add = parser.add_argument
        add("--weights", metavar="PATH", help="folder or file with the weights (default: the model hub's cache)")
        add("--revision", metavar="REVISION", help="commit or branch on the model hub (default: the pinned one)")
        if cls.LAYERED:
            add("--layer", type=layer, default=cls.LAYER, metavar="{last,mean,all,N}",
                help=f"hidden state that is averaged over time: last, a number N from 0 (input of the first layer) to "
                f"{cls.LAST} (last), mean (over all layers), or all (one file per layer) (default {cls.LAYER})")
        add("--precision", choices=("auto", *PRECISIONS), default="auto",
            help="precision of the network; auto is fp32 on a CPU and bf16 on CUDA (default auto)")

    def __init__(self, args):
        super().__init__(args)
        self.dim, self.depth, self.silence = self.DIM, self.LAST, {}
        self.layer = getattr(args, "layer", "last")
        self.size = round(min(self.WINDOW, args.seconds or self.WINDOW) * self.SAMPLE_RATE)  # samples per window

    # what is asked for ----------------------------------------------------
    def suffix(self):
        return "" if self.args.precision == "auto" else f"-{self.args.precision}"

    def layer_suffix(self):
        chosen, usual = (str(self.LAST) if name == "last" else name for name in (self.layer, self.LAYER))
        return "" if chosen in ("all", usual) else f"-layer{chosen}"

    def request(self):
        self.files = weights.find(self.source(), self.args.weights, self.args.revision)
        self.sizes()
        if self.layer.isdecimal() and int(self.layer) > self.depth:
            raise UsageError(f"--layer {self.layer} is not there: the states of these weights are 0 (input of the "
                                  f"first layer) to {self.depth} (last)")
        self.device = cli.pick_device(self.args.device)
        self.precision = self.args.precision
        if self.precision == "auto":
            self.precision = "bf16" if self.device.type == "cuda" else "fp32"
        return {"weights": self.files.provenance(), "variant": self.variant(), "layer": self.layer,
                "precision": self.precision}

    def source(self):
        """The weights.Source of the variant asked for."""
        raise NotImplementedError

    def licence(self):
        return self.source().licence

    def missing(self):
        if self.args.weights:
            return super().missing()
        weighty = f"weights of {self.source().repo}" if weights.absent(self.source(), self.args.revision) else ""
        return " and ".join(filter(None, (super().missing(), weighty)))

    def memory(self):
        """Four bytes per parameter, and as much again while the file is being read."""
        return round(8e6 * self.MILLIONS)

    def variant(self):
        return None

    def wanted(self):
        """Numbers of the states that are needed."""
        if self.layer in ("mean", "all"):
            return list(range(self.depth + 1))
        return [self.depth if self.layer == "last" else int(self.layer)]

    def outputs(self):
        if self.layer == "all":
            return {f"-layer{i}": self.dim for i in self.wanted()}
        return {"": self.dim}

    # the model ------------------------------------------------------------
    def load(self):
        """On a processor each thread takes a window and works alone: threads that share every product would wait
        for one another thousands of times per second, and the bytes would depend on how many there are."""
        import torch
        torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False  # fp32 is meant as it says
        torch.backends.cudnn.deterministic = True
        self.model = self.build()
        if (self.dim, self.depth) == (self.DIM, self.LAST) or self.files.revision:
            weights.check_size(self.model, self.MILLIONS, self.files.weights, self.DIGITS)
        if self.device.type == "cpu":
            self.threads = torch.get_num_threads()
            torch.set_num_threads(1)
            self.pool_of_threads = ThreadPoolExecutor(self.threads)
        dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[self.precision]
        if dtype != torch.float32:
            self.before_rounding()
        if self.device.type == "cpu" and dtype != torch.float32:
            self.place_checked(dtype)
        else:
            self.dtype = dtype
            self.place()

    def place_checked(self, dtype):
        """In half precision on a processor: with every convolution compared with float32 on a second of noise."""
        import torch

        from extract_item_embeddings.engine import half_precision
        noise = 0.1 * torch.randn(1, self.SAMPLE_RATE, generator=torch.Generator().manual_seed(0))

        def move():
            self.dtype = dtype
            self.place()
        self.dtype = torch.float32
        self.kept_in_float32 = half_precision.place(self.model, dtype, move, lambda: self.describe(noise), self.NAME)

    def unload(self):
        if self.pool_of_threads is not None:
            import torch
            torch.set_num_threads(self.threads)
            self.pool_of_threads.shutdown()
            self.pool_of_threads = None

    def place(self):
        self.model.to(self.device, self.dtype)

    def before_rounding(self):
        """In half precision, while the model is float32: join what would lose most by being rounded in between."""

    def prepare(self, samples):
        return cut(samples, self.size, least=round(audio.SHORTEST * self.SAMPLE_RATE))

    def forward(self, inputs, lengths):
        return np.stack([values for values, _ in self.hear(inputs, lengths)])

    def forward_frames(self, inputs, lengths):
        pairs = self.hear(inputs, lengths, frames=True)
        return np.stack([values for values, _ in pairs]), [frames for _, frames in pairs]

    def hear(self, inputs, lengths, frames=False):
        """(n, size), (n,) -> n pairs as of run: windows of equal length together on CUDA, one by one on a processor.

        The silent windows that fill up a pass differ in nothing; a processor hears silence of one length once.
        """
        if self.device.type != "cpu":
            return self.together(inputs, lengths, frames)
        return list(self.pool_of_threads.map(lambda window, n: self.alone(window, n, frames), inputs, lengths))

    def alone(self, window, n, frames):
        if window.any():
            return self.run(window[None, :n], frames)[0]
        if n not in self.silence:
            self.silence[n] = self.run(window[None, :n], frames)[0]
        return self.silence[n]

    def together(self, inputs, lengths, frames):
        pairs = [None] * len(inputs)
        for n in np.unique(lengths):
            rows = np.flatnonzero(lengths == n)
            windows = inputs[rows, :n] if len(rows) < len(inputs) else inputs[:, :n]  # whole: no copy is made
            for row, pair in zip(rows, self.run(windows, frames), strict=True):
                pairs[row] = pair
        return pairs

    def run(self, windows, frames=False):
        """(b, N) float32 samples -> b pairs: values float32 (width,), and their frames float32 (T, width) or None"""
        import torch
        with torch.inference_mode():
            x = torch.from_numpy(np.ascontiguousarray(windows))
            if self.device.type == "cuda":
                x = x.pin_memory()
            x = x.to(self.device, non_blocking=True)
            values, kept = self.describe_frames(x) if frames else (self.describe(x), None)
            kept = [None] * len(values) if kept is None else kept.cpu().numpy()
            return list(zip(values.float().cpu().numpy(), kept, strict=True))

    def describe(self, x):
        """(b, N) -> (b, width)"""
        return self.means(self.states(x, self.wanted()))

    def means(self, states):
        """{number: (b, T, D)} -> (b, width): the mean over time of each state; for `mean` their mean."""
        import torch
        means = [self.average(state) for state in states.values()]
        return torch.stack(means).mean(0) if self.layer == "mean" else torch.cat(means, dim=1)

    def describe_frames(self, x):
        """(b, N) -> (b, width) and float32 (b, T, width); where a window has but one vector, T is 1."""
        import torch
        if not self.LAYERED:
            values = self.describe(x)
            return values, values.float()[:, None]
        states = self.states(x, self.wanted())
        frames = [state.float() for state in states.values()]
        return self.means(states), sum(frames) / len(frames) if self.layer == "mean" else torch.cat(frames, dim=2)

    def average(self, frames):
        """(b, T, D) -> (b, D) over time, summed in float32"""
        return frames.float().mean(dim=1)

    def states(self, x, wanted):
        raise NotImplementedError


def huggingface_states(model, x, wanted, depth):
    """{number: (b, T, D)} of a transformers encoder; its last state is the one after all norms."""
    everything = wanted != [depth]
    out = model(x, output_hidden_states=everything)
    found = (*(out.hidden_states or ())[:depth], out.last_hidden_state) if everything else None
    return {i: found[i] for i in wanted} if everything else {depth: out.last_hidden_state}
