"""The page of report.py: what it shows, a module each, all of plain values that json can hold.

board.py        leaderboards and what content is worth, by part
curves.py       metrics over list length, by user activity and item popularity; learning curves
maps.py         two-dimensional maps of embeddings, their colours, and the neighbours of tracks
listening.py    users with their history and the lists of runs
tracks.py       the tracks that the page names, each once
excerpts.py     sound beside the page, made by ffmpeg
provenance.py   data set, split, embeddings and runs behind the figures
page.py         all of it as one html file: page.html.j2, page.css, page.js, and Plotly's script
"""
