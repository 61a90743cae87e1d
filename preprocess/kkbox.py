"""WSDM-KKBOX: who played which song from where in the app, in order; metadata of songs and members.

    python preprocess/0_get_plays_pqt.py kkbox --raw DIR --workdir W
    python preprocess/1_train_test_split.py --protocol given --workdir W

Source: WSDM Cup 2018, https://www.kaggle.com/c/kkbox-music-recommendation-challenge, filtered and cut into points
as the DTNMR source does (Zheng et al., Appl. Sci. 2019, 9, 703). --raw holds train.csv, test.csv, songs.csv,
members.csv and song_extra_info.csv, as they are or as NAME.csv.7z, NAME.csv.zip, or all inside one .zip or .7z.

What is written (int64 ids everywhere; text is a category, a null is unknown)
  trackid_sorted.csv  idx,trackid  every song_id of a play, sorted by its bytes; unplayed songs are left out
  userid_sorted.csv   idx,userid   every msno of a play, sorted by its bytes
  plays.pqt    one row per row of train.csv, then of test.csv, in their order, before any filter:
               user_id, track_id, timestamp (row number as seconds since the epoch: ordinal),
               source_system_tab, source_screen_name, source_type (text), target (int8, null in test.csv)
  items.pqt    one row per track: track_id, song_length (float64, seconds), genres, artists, composers, lyricists
               (lists of text, null where none is given), language (text, a code), name, isrc, country (text; of the
               ISRC), year (int16, of the ISRC), plays (int64, in train.csv), kept (bool, passed the song filters)
  users.pqt    one row per user: user_id, age (int16, 1 to 100), gender, city, registered_via (text; codes),
               registered, expires (date32), playlist (int64, plays in train.csv of kept songs),
               kept (bool, passed every filter: these are the users of points.pqt and split.pqt)
  points.pqt   the playlists of kept users, kept songs only, sorted by user_id, position:
               user_id, position (int64, 0, 1, 2, ... without gaps within a user), track_id, part (text),
               timestamp, source_system_tab, source_screen_name, source_type, target
               part is "train", "val" or "test" for a point (predict this song from the rows of smaller position
               of the same user), "history" for a row that is only ever looked back at. Repeated plays are rows.
  split.pqt    the same as unique pairs, for --protocol given: user_id, track_id, part, timestamp, count. A pair
               belongs where it is played first: "train" (history before val, and train points), "val" or "test".
               count: plays in that part. data/{train,val,test}.pqt come from it, so a test point whose song the
               user had already played is in points.pqt only.
  vocabulary.pqt                  column (int64), field ("genre", "artist", "composer", "language"), value (text,
               null: unknown, meaning none given or none in the vocabulary), songs (int64, kept songs that have it);
               fields in this order, values of kept songs sorted by their bytes, the null last in each field.
               Column 0 of the matrix is the length and stands here as field "length", value null.
  embeddings/metadata.npz         scipy csr float32 (n_tracks, columns): column 0 is song_length / longest kept song,
               the others 1 where the song has the value; rows of tracks absent from songs.csv are empty
  embeddings/metadata.npy, .json  float32 (n_tracks, --dim): its truncated SVD, for every recommender; a track absent
               from songs.csv is a row of NaN
  dataset.json counts, what each filter removed, flags, checksums of the raw files

Points. A kept user's playlist is the plays of kept songs in train.csv. Its first --min-playlist-len rows are
history, the rest train points, the last --val-share of which (rounded down, at least one of two) are val. Test
points are the plays of test.csv after the first --min-playlist-len of them, again for playlists of an admissible
length, and the train playlist comes before them as history. Where that gives no test point, or with
--test last, test.csv is no part of the points and the last 10 % of each playlist (at least one) are test.
"""
