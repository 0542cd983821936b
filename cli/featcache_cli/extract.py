"""featcache extract"""

from __future__ import annotations

from typing import Any

import click

from featcache_cli import options, outputs


@options.command()
@click.argument("data", type=options.PATH)
@click.option("-o", "--out", type=options.PATH, required=True, help="The cache to write, for example cache.h5.")
@options.backbone_option
@options.weights_option
@options.auto_views_option
@options.val_views_option
@options.view_options
@options.text_options
@options.batch_size_option
@options.machine_options
@options.deterministic_option
@options.precision_option("auto")
@options.engine_option
@options.dtype_option
@options.seed_option
@options.layers_option
@options.data_options
@options.text_column_option
@options.strict_option
@outputs.list_option
@options.cluster_options
@click.option("--dry-run", is_flag=True, help="Write nothing; measure a few samples and estimate time and size.")
@options.as_json
def command(out: str, dry_run: bool, listed: str | None, as_json: bool, **settings: Any) -> None:
    """Run the frozen network once on every image or text of DATA, and store the features in a cache.

    DATA is a folder (train/CLASS/*, val/CLASS/*, or CLASS/*), a CSV, JSON lines or Parquet manifest
    (path,label[,split]), either of them by URL (s3://, gs://, https://), tar files (shards-{000..099}.tar), or a data
    set of Hugging Face (saved, Parquet files, a folder with metadata.csv). Samples may have no label (a folder without
    class folders, a folder unlabeled, empty cells): `featcache update` fills labels in. DATA of texts is a table with
    text,label[,split] (CSV, TSV, JSON lines, Parquet), a folder of .txt files, or a data set of Hugging Face. Run the
    same command again to resume after an interruption.
    """
    import featcache

    cluster = options.take_cluster(settings)
    options.take_backbone(settings, settings["layers"])
    if dry_run and (cluster or listed):
        raise click.UsageError("--dry-run measures a few samples on this machine: drop --cluster and --list")
    settings["on_note"] = None if as_json else options.note
    with options.progress_bar(then=options.LOADING) as progress:
        if dry_run:
            del settings["strict"]
            if settings["views"] == "auto":
                settings["views"] = 0
                options.note(
                    "the estimate is for the clean views; a trial and the views that lower the log-loss come after them"
                )
        else:
            settings["cluster"] = cluster
        run: Any = featcache.estimate if dry_run else featcache.extract
        result = run(out=out, progress=progress, **settings)
    options.show(result, as_json)
    if listed:
        result.write_list(listed)
