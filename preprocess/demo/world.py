"""The generative model of the demo data set: tracks, users and plays from a latent space.

Here are the numbers; synth.py renders a track's traits as audio, __init__.py writes the files.
A user's taste and a track's traits are points of one latent space, so plays depend on audible traits in part.
The rest is not audible: scenes (shared by users, independent of the traits), popularity ("fame"), and a random
preference of each user for each track. The constants below were fixed before any audio representation was
extracted, using only chance, popularity, an item-item model and the latent space itself as references.

    tracks = world.make_tracks(seed=42, n_tracks=1000)
    users = world.make_users(seed=42, n_users=1500, tracks=tracks)
    plays = world.listen(seed=42, tracks=tracks, users=users)
"""
from dataclasses import dataclass

import numpy as np

# Time. The log covers 13 months and ends on 2020-03-20, as Music4All-Onion's does.
START = np.datetime64("2019-02-20", "s").astype(np.int64)   # seconds since the epoch, as all times here
TEST = np.datetime64("2020-02-20", "s").astype(np.int64)    # the last month: test, and the cold releases
END = np.datetime64("2020-03-21", "s").astype(np.int64)     # first second after the log
ARCHIVE = np.datetime64("2016-01-01", "s").astype(np.int64)  # oldest play of an imported old log
DAY = 86_400

# Tracks. The latent axes are the audible traits; a track is style + artist + its own offset.
TRAITS = ("timbre", "tempo", "mode", "register", "density", "loudness", "noise")
STYLES = ("amber", "basalt", "cobalt", "dune", "ember", "fjord", "garnet", "heather", "indigo", "juniper",
          "kelp", "lichen")
STYLE_SPREAD = 1.0       # standard deviation of style centres, per axis
ARTIST_SPREAD = 0.45     # standard deviation of artists around their style
TRACK_SPREAD = 0.35      # standard deviation of tracks around their artist
TRACKS_PER_ARTIST = 8    # mean number
GUEST_SHARE = 0.08       # share of tracks with a second artist
BLEND = 0.75             # ratio of distances below which a track also has the style of the nearest other centre
COLD_SHARE = 0.23        # share of tracks released in the test month
COLD_DAYS = 18           # ... within its first days, so that each can be discovered before the log ends
RECENT_SHARE = 0.2       # share of the other tracks released during the train year
FAME_ARTIST, FAME_TRACK = 0.5, 0.5   # standard deviations of log popularity

# Users. Log-odds of a play = content + scene + fame + whim (+ novelty), see `listen`.
N_SCENES = 6             # dimensions of taste that are not audible
CONTENT = 7.0            # log-odds of a track at the preferred point of the latent space
WIDTH = 2.2              # decay with the distance d from it (latent units): exp(-d^2 / 2 WIDTH^2)
SCENE = 1.4              # standard deviation of the scene term
WHIM = 0.8               # standard deviation of a user's random preference for a track
NOVELTY = 1.5            # log-odds added for a new release, for users who follow releases
NOVELTY_DAYS = 20        # ... and its decay in days
CURIOUS_SHARE = 0.62     # share of users who follow new releases; the others discover them late or never
SECOND_SHARE = 0.20      # share of sessions in a user's second taste
FOCUS_SPREAD = 0.5       # standard deviation of tastes around a style centre
DRIFT = 0.7              # standard deviation of a taste's drift per axis over the 13 months (latent units)
MOOD = 0.4               # standard deviation of a session's preferred point around the taste
SESSIONS, SESSIONS_SPREAD = 36, 0.45   # median sessions in 13 months; standard deviation of their logarithm
PLAYS = 8.0              # mean plays of a session
GAP = (150, 330)         # seconds from one play to the next
KNOWN_BEFORE = 0.45      # share of old tracks a user knew before the log; the rest are discovered during it
IMPORT_SHARE, IMPORT_SESSIONS = 0.3, 2  # share of users with imported sessions of earlier years, and their number
UNKNOWN_SHARE, N_UNKNOWN = 0.025, 60    # share of plays of tracks absent from the track list, and their number
COUNTRIES = ("US", "DE", "GB", "BR", "PL", "RU", "FI", "NL", "SE", "JP", "MX", "AU")
UNREPORTED = 0.12        # share of users without an age; as many other users have no country

_ALPHABET = np.array(list("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"))
_TRACKS, _USERS, _PLAYS = 1, 2, 3   # streams of random numbers under one seed


@dataclass(frozen=True)
class Tracks:
    """T tracks, sorted by id. `latent` is used by the oracle and the audio only, `scene` and `fame` by neither."""
    ids: list              # 16 characters each, as in Music4All
    unknown: list          # ids that occur in the log only
    title: list
    artists: list          # list of names per track
    styles: list           # list of names per track
    latent: np.ndarray     # float64 (T, 7), mean 0 and deviation 1 per axis, see TRAITS
    centres: np.ndarray    # float64 (12, 7) style centres on the same scale
    scene: np.ndarray      # float64 (T, N_SCENES)
    fame: np.ndarray       # float64 (T,) log-odds
    release: np.ndarray    # int64 (T,) seconds since the epoch
    cold: np.ndarray       # bool (T,) released in the test month

    def __len__(self):
        return len(self.ids)


@dataclass(frozen=True)
class Users:
    """U users, ascending user ids."""
    ids: np.ndarray        # int64 (U,)
    age: np.ndarray        # int64 (U,) years, -1 if unknown
    country: list          # two letters, "" if unknown
    focus: np.ndarray      # float64 (U, 2 tastes, 2 ends, 7): from the first to the last day
    scene: np.ndarray      # float64 (U, N_SCENES)
    sessions: np.ndarray   # int64 (U,)
    curious: np.ndarray    # bool (U,)
    hour: np.ndarray       # float64 (U,) favourite hour of the day

    def __len__(self):
        return len(self.ids)


@dataclass(frozen=True)
class Plays:
    """N plays, ascending by user and newest first within a user.

    track indexes Tracks.ids followed by Tracks.unknown (track >= len(tracks)).
    """
    user: np.ndarray       # int64 (N,) user ids
    track: np.ndarray      # int64 (N,)
    time: np.ndarray       # int64 (N,) seconds since the epoch

    def __len__(self):
        return len(self.user)


def make_tracks(seed, n_tracks):
    """The catalogue. Any n_tracks >= 1 works; a small one has fewer artists, not fewer styles."""
    rng = np.random.default_rng([seed, _TRACKS])
    n_artists = max(1, round(n_tracks / TRACKS_PER_ARTIST))
    ids = _ids(rng, n_tracks + N_UNKNOWN)
    centres = rng.normal(0, STYLE_SPREAD, (len(STYLES), len(TRAITS)))
    artist_style = rng.permutation(np.arange(n_artists) % len(STYLES))
    artist_latent = centres[artist_style] + rng.normal(0, ARTIST_SPREAD, (n_artists, len(TRAITS)))
    artist = rng.permutation(np.arange(n_tracks) % n_artists)
    latent = artist_latent[artist] + rng.normal(0, TRACK_SPREAD, (n_tracks, len(TRAITS)))
    mean, deviation = latent.mean(axis=0), np.maximum(latent.std(axis=0), 1e-9)
    latent, centres = (latent - mean) / deviation, (centres - mean) / deviation
    artist_scene = rng.normal(size=(n_artists, N_SCENES))
    scene = np.sqrt(0.5) * (artist_scene[artist] + rng.normal(size=(n_tracks, N_SCENES)))
    fame = rng.normal(0, FAME_ARTIST, n_artists)[artist] + rng.normal(0, FAME_TRACK, n_tracks)
    release, cold = _releases(rng, n_tracks)
    names = _names(rng, n_artists + n_tracks)
    guest = np.where(rng.random(n_tracks) < GUEST_SHARE, rng.integers(n_artists, size=n_tracks), artist)
    artists = [[names[a]] if a == g else [names[a], names[g]] for a, g in zip(artist, guest, strict=True)]
    return Tracks(sorted(ids[:n_tracks]), ids[n_tracks:], names[n_artists:], artists,
                  _styles(latent, centres, artist_style[artist]), latent, centres, scene, fame, release, cold)


def _ids(rng, n):
    """n different ids of 16 characters."""
    while True:
        ids = ["".join(row) for row in _ALPHABET[rng.integers(len(_ALPHABET), size=(n, 16))]]
        if len({i.lower() for i in ids}) == n:  # also different on a disk that ignores case
            return ids


def _names(rng, n):
    """n different invented names of two to four syllables."""
    syllables = [c + v for c in "bdfgklmnprstvz" for v in "aeiou"]
    names = []
    while len(names) < n:
        more = ("".join(rng.choice(syllables, rng.integers(2, 5))).title() for _ in range(n))
        names = list(dict.fromkeys([*names, *more]))
    return names[:n]


def _releases(rng, n):
    """Release days (seconds, midnight) and which tracks are cold."""
    order = rng.permutation(n)
    cold = np.zeros(n, bool)
    cold[order[:round(COLD_SHARE * n)]] = True
    recent = np.zeros(n, bool)
    recent[order[cold.sum():cold.sum() + round(RECENT_SHARE * (n - cold.sum()))]] = True
    old = np.datetime64("1985-01-01", "s").astype(np.int64)
    days = np.where(cold, rng.integers(0, COLD_DAYS, n) + TEST // DAY,
                    np.where(recent, rng.integers(START // DAY, TEST // DAY - 30, n),
                             rng.integers(old // DAY, START // DAY - 60, n)))
    return days * DAY, cold


def _styles(latent, centres, own):
    """Style names of every track: its artist's, and a second one if the track lies between two centres."""
    distance = np.linalg.norm(latent[:, None] - centres, axis=2)
    mine = distance[np.arange(len(own)), own]
    distance[np.arange(len(own)), own] = np.inf
    other = distance.argmin(axis=1)
    blended = mine > BLEND * distance.min(axis=1)
    return [[STYLES[a], STYLES[b]] if both else [STYLES[a]] for a, b, both in zip(own, other, blended, strict=True)]


def make_users(seed, n_users, tracks):
    """The users. Their styles depend weakly on age and country."""
    rng = np.random.default_rng([seed, _USERS])
    age = np.clip(np.round(rng.lognormal(np.log(26), 0.35, n_users)), 13, 80).astype(np.int64)
    country = rng.choice(len(COUNTRIES), n_users, p=_falling(len(COUNTRIES)))
    style_age = rng.uniform(18, 50, len(STYLES))
    leaning = rng.normal(0, 0.7, (len(COUNTRIES), len(STYLES)))
    odds = leaning[country] - ((age[:, None] - style_age) / 18) ** 2
    # Argmax with Gumbel noise is a draw from the softmax; the two largest are two different styles.
    styles = np.argsort(-(odds + rng.gumbel(size=odds.shape)), axis=1)[:, :2]
    first = tracks.centres[styles] + rng.normal(0, FOCUS_SPREAD, (n_users, 2, len(TRAITS)))
    last = first + rng.normal(0, DRIFT, first.shape)
    hidden = rng.permutation(n_users)
    n_hidden = round(UNREPORTED * n_users)
    age[hidden[:n_hidden]] = -1
    reported = ~np.isin(np.arange(n_users), hidden[n_hidden:2 * n_hidden])
    return Users(np.sort(rng.choice(80 * n_users, n_users, replace=False)) + 1, age,
                 [COUNTRIES[c] if r else "" for c, r in zip(country, reported, strict=True)],
                 np.stack([first, last], axis=2), rng.normal(size=(n_users, N_SCENES)),
                 np.maximum(4, np.round(rng.lognormal(np.log(SESSIONS), SESSIONS_SPREAD, n_users))).astype(np.int64),
                 rng.random(n_users) < CURIOUS_SHARE, rng.normal(18, 4, n_users))


def _falling(n):
    weights = 1 / np.arange(1, n + 1)
    return weights / weights.sum()


def listen(seed, tracks, users):
    """All plays; each user has an own random generator, so users are independent of one another."""
    parts = [_listener(np.random.default_rng([seed, _PLAYS, u]), tracks, users, u) for u in range(len(users))]
    user = np.repeat(users.ids, [len(track) for track, _ in parts])
    track, time = (np.concatenate([p[i] for p in parts]) for i in (0, 1))
    rows = np.lexsort((-time, user))
    return Plays(user[rows], track[rows], time[rows])


def _listener(rng, tracks, users, u):
    """Plays of user u: track int64 (n,), time int64 (n,), unordered.

    A session has a time and a preferred point; its plays are drawn from the softmax of `_odds`.
    """
    start = _session_starts(rng, users, u)
    odds = _odds(rng, tracks, users, u, start)
    possible = np.isfinite(odds).any(axis=1)   # a tiny catalogue may have no discovered track yet
    odds, start, n = odds[possible], start[possible], int(possible.sum())
    if n == 0:
        return np.zeros((2, 0), np.int64)
    total = np.cumsum(np.exp(odds - odds.max(axis=1, keepdims=True)), axis=1, dtype=np.float64)
    total /= total[:, -1:]
    length = rng.geometric(1 / PLAYS, n)
    session = np.repeat(np.arange(n), length)
    # One search for all plays: session s has the interval (s, s + 1] of the concatenated distributions.
    drawn = np.searchsorted((total + np.arange(n)[:, None]).ravel(), session + 1 - rng.random(len(session)))
    track = np.minimum(drawn - session * len(tracks), len(tracks) - 1)
    gaps = rng.integers(*GAP, len(session))
    before = np.cumsum(gaps) - gaps
    time = start[session] + before - before[np.cumsum(length) - length][session]
    unknown = rng.random(len(session)) < UNKNOWN_SHARE
    track[unknown] = len(tracks) + rng.choice(N_UNKNOWN, unknown.sum(), p=_falling(N_UNKNOWN))
    return track[time < END], time[time < END]


def _odds(rng, tracks, users, u, start):
    """Log-odds of every track in every session, float32 (n, T); -inf before its release or discovery.

    CONTENT exp(-|mood - latent|^2 / 2 WIDTH^2) + SCENE <user, track> / sqrt(N_SCENES) + fame + WHIM noise + novelty
    """
    n = len(start)
    elapsed = np.clip((start - START) / (END - START), 0, 1)[:, None]
    focus = users.focus[u, (rng.random(n) < SECOND_SHARE).astype(int)]            # (n, 2 ends, 7)
    mood = focus[:, 0] + elapsed * (focus[:, 1] - focus[:, 0]) + rng.normal(0, MOOD, (n, len(TRAITS)))
    wanted = np.exp(_squared_distance(mood, tracks.latent) / np.float32(-2 * WIDTH ** 2))
    shared = (tracks.scene * users.scene[u]).sum(axis=1) / np.sqrt(N_SCENES)
    lasting = SCENE * shared + tracks.fame + rng.normal(0, WHIM, len(tracks))
    odds = np.float32(CONTENT) * wanted + lasting.astype(np.float32)
    since = start[:, None] - tracks.release                                       # seconds since the release
    if users.curious[u]:
        new = tracks.release >= START - 5 * NOVELTY_DAYS * DAY                    # older releases have no novelty left
        odds[:, new] += NOVELTY * np.exp(np.minimum(-since[:, new] / (NOVELTY_DAYS * DAY), 0)).astype(np.float32)
    discovery = _discovery(rng, tracks, users.curious[u])
    odds[(since < 0) | ((start[:, None] < discovery) & (start[:, None] >= START))] = -np.inf
    return odds


def _squared_distance(a, b):
    """|a_i - b_j|^2, float32 (n, m); without BLAS, whose rounding may depend on the number of threads."""
    a, b = a.astype(np.float32), b.astype(np.float32)
    total = np.zeros((len(a), len(b)), np.float32)
    for axis in range(a.shape[1]):
        total += (a[:, axis, None] - b[:, axis]) ** 2
    return total


def _session_starts(rng, users, u):
    """Seconds since the epoch, int64 (n,): uniform over the 13 months, plus imported sessions of some users."""
    n = users.sessions[u]
    days = rng.integers(START // DAY, END // DAY, n)
    if rng.random() < IMPORT_SHARE:
        days = np.append(days, rng.integers(ARCHIVE // DAY, START // DAY - 30, IMPORT_SESSIONS))
    hours = rng.normal(users.hour[u], 3, len(days)) % 24
    return days * DAY + (hours * 3600).astype(np.int64)


def _discovery(rng, tracks, curious):
    """Time of discovery of each track by a user, int64 (T,) seconds since the epoch.

    A share of the old tracks is known before the log, the rest are discovered uniformly over the log. Users who
    follow releases (`curious`) discover a new one within days; the others discover those of the train year later or
    never, and those of the test month not before the log ends.
    """
    n = len(tracks)
    later = START + (rng.random(n) * (END - START)).astype(np.int64)
    old = np.where(rng.random(n) < KNOWN_BEFORE, START, later)
    new = tracks.release >= START
    soon = tracks.release + (rng.exponential(5 * DAY, n)).astype(np.int64)
    return np.where(new, soon if curious else np.where(tracks.cold, END, np.maximum(later, tracks.release)), old)
