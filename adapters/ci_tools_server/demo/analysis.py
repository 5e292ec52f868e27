"""The code that the demo runs, step by step, as a model would write it."""

from dataclasses import dataclass

DATA = "mauna_loa_co2.csv"
"""The data set's name in the session and in examples/data."""

PLOT = "mauna_loa_co2.png"
"""What the last step draws."""


@dataclass(frozen=True, kw_only=True)
class Move:
    """One call of run_code, and what the reader is told before it."""

    title: str
    code: str
    fails: bool = False
    counts: bool = False
    """Whether its output tells how far it is."""


MOVES = (
    Move(
        title="Look at the data",
        code=f"""\
import pandas as pd

data = pd.read_csv("{DATA}")
print(data.head(8).to_string(index=False))
print(f"\\n{{len(data):,}} weeks, {{data.co2.isna().sum()}} of them without a value")
""",
    ),
    Move(
        title="Take yearly means (and fail: the dates are numbers like 19580329)",
        fails=True,
        code="""\
yearly = data.set_index("date").co2.resample("YS").mean()
""",
    ),
    Move(
        title="Recover: variables are still there, so only the dates are mended",
        code="""\
weekly = data.set_index(pd.to_datetime(data.date.astype(str))).co2
weeks = weekly.resample("YS").count()
yearly = weekly.resample("YS").mean()[weeks >= 40]
for start, end in ((1960, 1970), (1970, 1980), (1980, 1990), (1990, 2000)):
    rise = yearly[f"{end}"].iloc[0] - yearly[f"{start}"].iloc[0]
    print(f"{start} to {end}: {rise / 10:.2f} ppm a year")
""",
    ),
    Move(
        title="Compute for some seconds: how sure is the acceleration?",
        counts=True,
        code="""\
import numpy as np
from time import monotonic

known = weekly.dropna()
years = (known.index - known.index[0]).days.to_numpy() / 365.25
season = 2 * np.pi * years
terms = np.column_stack(
    [np.ones_like(years), years, years**2, np.sin(season), np.cos(season)]
)
fit, *_ = np.linalg.lstsq(terms, known.to_numpy(), rcond=None)
residual = known.to_numpy() - terms @ fit
blocks = np.array_split(residual, 89)  # half a year each: neighbouring weeks are alike
random = np.random.default_rng(1958)
accelerations = []
until = monotonic() + 3
while monotonic() < until and len(accelerations) < 9000:
    shuffled = np.concatenate([blocks[i] for i in random.permutation(len(blocks))])
    sample, *_ = np.linalg.lstsq(terms, terms @ fit + shuffled, rcond=None)
    accelerations.append(2 * sample[2])
    if len(accelerations) % 100 == 0:
        print(f"\\r{len(accelerations)} resamples", end="", flush=True)
low, high = np.percentile(accelerations, [2.5, 97.5])
print(f"\\nEach year the rise grew by {2 * fit[2]:.4f} ppm (95 %: {low:.4f} to {high:.4f})")
""",
    ),
    Move(
        title="Draw it",
        code=f"""\
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(9, 4.5), layout="constrained")
axes.plot(weekly.index, weekly, linewidth=0.7, color="tab:blue", label="weekly")
axes.plot(known.index, terms[:, :3] @ fit[:3], color="tab:red", label="trend")
axes.set(title="Carbon dioxide at Mauna Loa, 1958 to 2001", ylabel="ppm by volume")
axes.legend()
figure.savefig("{PLOT}", dpi=120)
plt.show()
""",
    ),
)
