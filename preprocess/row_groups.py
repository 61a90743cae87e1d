"""Where a parquet file is damaged: the row group by its number, for an error sentence."""


def damage(path, error=""):
    """What is wrong with a parquet file, in words: its first row group that cannot be read, else the reader's error.

    The file is read row group by row group, so memory is that of one. A damage that leaves every page decodable is
    seen by a checksum only.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq
    first = (str(error).splitlines() or [""])[0]
    try:
        with pq.ParquetFile(path) as file:
            for number in range(file.num_row_groups):
                try:
                    file.read_row_group(number)
                except (OSError, ValueError, pa.ArrowException) as e:
                    rows = file.metadata.row_group(number).num_rows
                    reason = (first or str(e)).splitlines()[0]
                    return f"row group {number} of {file.num_row_groups}, with {rows} rows, is damaged: {reason}"
    except (OSError, ValueError, pa.ArrowException) as e:
        return first or str(e).splitlines()[0]
    return first
